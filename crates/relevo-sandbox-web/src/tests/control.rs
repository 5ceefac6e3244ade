//! The control plane offers the functions of the handle over HTTP.

use serde_json::{Value, json};

use super::client::http_client;
use super::{ALICE, BOB, TestClient, start_web};

struct ControlClient {
    http: reqwest::Client,
    base: String,
}

impl ControlClient {
    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.base)).body(body.to_string());
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.base)).send().await.unwrap().json().await.unwrap()
    }
}

#[tokio::test]
async fn device_is_linked_messaged_and_unlinked_over_http() {
    let web = start_web().await;
    let client = TestClient::start(&web, "http").await;
    let base = web.url().as_str().replace("ws://", "http://").replace("/ws/chat", "");
    let plane = ControlClient { http: http_client(), base };
    let index = plane.http.get(&plane.base).send().await.unwrap().text().await.unwrap();
    assert!(index.contains("/_web/phones/{number}/scan"));

    let code = client.wait_for_qr_code().await;
    let (status, linked) = plane.post("/_web/phones/+15550000001/scan", json!({ "code": code })).await;
    assert_eq!((status, linked), (200, json!({ "device": 1 })));
    client.wait_connected().await;
    let (status, sent_id) =
        plane.post(&format!("/_web/phones/{BOB}/say"), json!({ "to": ALICE, "text": "over HTTP" })).await;
    assert_eq!(status, 200);
    let (id, _, text) = client.next_text().await;
    assert_eq!((json!({ "id": id }), text.as_str()), (sent_id, "over HTTP"));

    let fault = json!({ "match": { "phone": ALICE }, "fault": { "nack": { "code": 479 } }, "times": 1 });
    assert_eq!(plane.post("/_web/faults", fault).await, (200, json!({ "id": 1 })));
    let id = client.send_text(&web.phone(BOB).jid(), "no").await;
    assert_eq!(client.wait_for_ack(&id).await.as_deref(), Some("479"));
    assert_eq!(plane.get("/_web/faults").await["faults"][0]["struck"], 1);
    let journal = plane.get("/_web/journal").await;
    let refused = journal["messages"].as_array().unwrap().iter().find(|entry| entry["id"] == id.as_str());
    assert_eq!(refused.unwrap()["refused"], 479);
    assert_eq!(plane.get("/_web/stats").await["online"], 1);

    let (status, group) =
        plane.post("/_web/groups", json!({ "subject": "us", "owner": ALICE, "members": [BOB] })).await;
    assert_eq!(status, 200, "{group}");
    let to = group["jid"].clone();
    plane.post(&format!("/_web/phones/{BOB}/say"), json!({ "to": to, "text": "to all" })).await;
    assert_eq!(client.next_text().await.2, "to all");

    let (_, left) = plane.post(&format!("/_web/phones/{ALICE}/unlink"), json!({})).await;
    assert_eq!(left, json!({ "devices": [] }));
}

#[tokio::test]
async fn control_plane_reports_invalid_requests() {
    let web = start_web().await;
    let base = web.url().as_str().replace("ws://", "http://").replace("/ws/chat", "");
    let plane = ControlClient { http: http_client(), base };
    for (path, body, status, reason) in [
        ("/_web/phones/abc/say", json!({ "to": ALICE, "text": "x" }), 400, "1 to 15 digits"),
        ("/_web/phones/1/say", json!({ "to": "@", "text": "x" }), 400, "neither a phone number nor a JID"),
        (
            "/_web/phones/1/say",
            json!({ "to": "19999999999", "text": "x" }),
            422,
            "not the address of an account",
        ),
        ("/_web/phones/1/scan", json!({ "code": "2@x,y" }), 422, "not a QR code"),
        ("/_web/phones/1/code", json!({ "code": "ABCDEFGH" }), 422, "no device has requested"),
        ("/_web/faults", json!({ "fault": "explode" }), 400, "explode"),
    ] {
        let (answered, answer) = plane.post(path, body).await;
        assert_eq!(answered, status, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{path}: {answer}");
    }
}
