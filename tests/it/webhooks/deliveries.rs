//! The deliveries of an endpoint: their states, their bodies, and the replay of one of them.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::events::send;
use crate::support::receiver::Receiver;
use crate::support::{Answer, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn endpoint_shows_the_state_of_each_delivery() {
    let world = World::with(|settings| {
        settings.webhook.first_delay = Duration::from_millis(20);
        settings.webhook.max_delay = Duration::from_millis(50);
    })
    .await;
    let receiver = Receiver::start().await;
    let created = world
        .post("/instances/shop/webhooks", json!({ "url": receiver.url(), "events": ["message_ack"] }))
        .await;
    let endpoint = format!("/webhooks/{}", created.body["data"]["endpoint_id"].as_str().unwrap());
    send(&world, "573001234561").await;
    receiver.until_taken("message_ack", 1).await;
    receiver.answer(400);
    send(&world, "573001234562").await;
    let states = async |query: &str| {
        let page = world.get(&format!("{endpoint}/deliveries{query}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        page.body["data"].as_array().unwrap().clone()
    };
    let listed = eventually("a parked delivery", async || {
        let listed = states("").await;
        if listed.iter().any(|it| it["state"] == "parked") { Ok(listed) } else { Err(listed) }
    })
    .await;
    let order: Vec<_> = listed.iter().map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(order, ["delivered", "parked"]);
    assert_eq!((&listed[1]["type"], &listed[1]["attempts"]), (&json!("message_ack"), &json!(3)));
    assert!(listed[1]["error"].as_str().unwrap().contains("400"));
    assert_eq!(states("?state=parked&limit=1").await, [listed[1].clone()]);
    assert_eq!(states("?state=pending").await, Vec::<Value>::new());
    assert_eq!(states(&format!("?after={}", listed[0]["sequence"])).await, [listed[1].clone()]);
    assert_eq!(world.get(&format!("{endpoint}/deliveries?state=lost")).await.body["error"]["field"], "state");

    let shown = world.get(&format!("{endpoint}/deliveries/shop/{}", listed[0]["sequence"])).await;
    let taken = receiver.taken("message_ack")[0].clone();
    assert_eq!(shown.body["data"]["body"].as_str().unwrap().as_bytes(), &taken.raw[..], "{shown:?}");
    assert_eq!(shown.body["data"]["webhook_id"], taken.headers["webhook-id"].to_str().unwrap());
    assert_eq!(world.get(&format!("{endpoint}/deliveries/shop/999999")).await.status, 404);

    receiver.answer(503);
    send(&world, "573001234563").await;
    send(&world, "573001234564").await;
    eventually("a retried delivery", async || {
        let listed = states(&format!("?after={}", listed[1]["sequence"])).await;
        let order: Vec<_> = listed.iter().map(|it| it["state"].as_str().unwrap().to_owned()).collect();
        let retried = order == ["retrying", "pending"] && listed[0]["next_attempt_at"].is_string();
        if retried { Ok(()) } else { Err(order) }
    })
    .await;

    let parked = format!("{endpoint}/parked/shop/{}", listed[1]["sequence"]);
    let failed = world.post(&format!("{parked}/replay"), json!({})).await;
    assert_eq!((failed.status.as_u16(), &failed.body["data"]["delivered"]), (200, &json!(0)), "{failed:?}");
    receiver.answer(200);
    let replayed = world.post(&format!("{parked}/replay"), json!({})).await;
    assert_eq!(replayed.body["data"]["delivered"], 1, "{replayed:?}");
    assert_eq!(
        world.post(&format!("{parked}/replay"), json!({})).await.status,
        404,
        "the replayed event is still parked"
    );
    assert_eq!(Answer::of(world.request(Method::DELETE, &parked)).await.status, 404);
    receiver.until_taken("message_ack", 4).await;
}
