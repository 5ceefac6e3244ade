//! Opens a data folder that an earlier binary wrote, and compares its content with the listing of the fixture.
//!
//! `tests/fixtures/make.py` ran that binary until the folder held records of every kind, killed it under load, and wrote
//! the listing from its answers. A node that shows a different content would lose the data of every user who updates:
//! when a test here fails, the code is wrong, never the fixture.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use relevo::config::Settings;
use relevo_domain::Timestamp;
use relevo_sandbox_web::{ConnectionTransition, Fault, FaultRule};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::linked::{VERSION, soon, whatsapp};
use crate::relay::Consumer;
use crate::support::cloud_webhook::{post_webhook, webhook_about};
use crate::support::receiver::Receiver;
use crate::support::{Answer, KEY, World, eventually};

/// Name of the fixture's files without their extensions.
const NAME: &str = "data-folder-1";

/// `phone_number_id` of the instance `shop`.
const SHOP: &str = "1001";

/// A delay that is longer than any test.
const HOURS: Duration = Duration::from_secs(10 * 3600);

/// A node on the folder, and the listing of the folder's content.
struct Old {
    world: World,
    listing: Value,
}

fn fixture(ending: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{NAME}.{ending}"))
}

/// Unpacks the folder as `data` in a new temporary folder.
fn unpack() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(fixture("tar.gz")).arg("-C").arg(folder.path());
    assert!(tar.status().unwrap().success(), "{tar:?}");
    folder
}

impl Old {
    async fn open(change: impl FnOnce(&mut Settings)) -> Self {
        Self::open_in(unpack(), change).await
    }

    /// Starts a node on `folder`. The addresses at which the instances reach WhatsApp do not answer until a test calls
    /// `point_to_sandbox`.
    async fn open_in(folder: TempDir, change: impl FnOnce(&mut Settings)) -> Self {
        let listing: Value = serde_json::from_slice(&fs::read(fixture("json")).unwrap()).unwrap();
        let at = Timestamp(listing["at_ms"].as_u64().unwrap());
        let world = World::of_folder(folder, at, |settings| {
            // Waiting messages of the folder keep waiting.
            for policy in [&mut settings.retry.transactional, &mut settings.retry.bulk] {
                (policy.first_delay, policy.max_delay, policy.ambiguous_wait) = (HOURS, HOURS, HOURS);
            }
            settings.linked.server = "ws://127.0.0.1:9/ws/chat".parse().unwrap();
            settings.linked.version = Some(VERSION);
            settings.relay.url = Some("ws://127.0.0.1:9/ws".parse().unwrap());
            change(settings);
        })
        .await;
        Self { world, listing }
    }

    fn list(&self, name: &str) -> &[Value] {
        self.listing[name].as_array().unwrap()
    }

    /// The entry of the list `name` that the listing calls `what`.
    fn entry(&self, name: &str, what: &str) -> &Value {
        let mut found = self.list(name).iter().filter(|entry| entry["what"] == what);
        found.next().unwrap_or_else(|| panic!("the listing has no {what} in {name}"))
    }

    fn list_of_events(&self, instance: &str) -> &[Value] {
        self.listing["events"][instance].as_array().unwrap()
    }

    fn id(&self, what: &str) -> &str {
        self.entry("messages", what)["view"]["message_id"].as_str().unwrap()
    }

    fn job(&self, what: &str) -> &str {
        self.entry("jobs", what)["view"]["id"].as_str().unwrap()
    }

    async fn view(&self, what: &str) -> Value {
        let instance = self.entry("messages", what)["instance"].as_str().unwrap();
        let answer = self.world.get(&format!("/instances/{instance}/messages/{}", self.id(what))).await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        answer.body["data"].clone()
    }

    async fn until_status(&self, what: &str, wanted: &[&str]) -> Value {
        eventually(&format!("{what} to be {wanted:?}"), async || {
            let view = self.view(what).await;
            if wanted.contains(&view["status"].as_str().unwrap()) { Ok(view) } else { Err(view) }
        })
        .await
    }

    /// Reads all pages of a list.
    async fn all(&self, path: &str, field: &str) -> Vec<Value> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = match &after {
                None => self.world.get(path).await,
                Some(after) => self.world.get(&format!("{path}{mark}after={after}")).await,
            };
            let more = page.body[field].as_array().unwrap_or_else(|| panic!("{path}: {page:?}")).clone();
            after = page.body["next"].as_str().map(str::to_owned);
            let ends = after.is_none() || more.is_empty() || page.body["more"] == false;
            found.extend(more);
            if ends {
                return found;
            }
        }
    }

    /// Sets the instance's `base_url` to the sandbox of this test.
    async fn point_to_sandbox(&self, instance: &str) {
        let base_url = format!("http://{}", self.world.sandbox.address);
        let body = json!({ "cloud_api": { "base_url": base_url } });
        let path = format!("/instances/{instance}");
        let aimed = Answer::of(self.world.request(Method::PUT, &path).json(&body)).await;
        assert_eq!(aimed.status, 200, "{aimed:?}");
    }

    /// Bodies of the messages that the sandbox of this test received for a recipient, in order of arrival.
    async fn bodies_to(&self, phone: &str) -> Vec<Value> {
        let arrived = self.world.arrived().await.into_iter();
        let to =
            |message: &Value| message["to"].as_str().is_some_and(|to| to.trim_start_matches('+') == phone);
        arrived.filter(|message| to(message)).map(|message| message["body"].clone()).collect()
    }
}

/// Lists the fields of `expected` that have another value in `found`. Ignores fields that only `found` has.
fn differences(what: &str, expected: &Value, found: &Value) -> Vec<String> {
    match (expected, found) {
        (Value::Object(expected), Value::Object(_)) => {
            let fields = expected.iter();
            fields
                .flat_map(|(name, value)| differences(&format!("{what}.{name}"), value, &found[name]))
                .collect()
        }
        _ if expected == found => Vec::new(),
        _ => vec![format!("{what}: {found} instead of {expected}")],
    }
}

#[track_caller]
fn assert_has(what: &str, expected: &Value, found: &Value) {
    let differences = differences(what, expected, found);
    assert!(differences.is_empty(), "{differences:#?}");
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_else(|| panic!("no {field} in {entry}"))
}

fn count(entry: &Value) -> u64 {
    entry.as_u64().unwrap_or_else(|| panic!("{entry} is no number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn node_loads_all_instances_of_the_folder() {
    let old = Old::open(|_| {}).await;
    for expected in old.list("instances") {
        let (name, mut expected) = (text(expected, "instance_id"), expected.clone());
        if expected["status"] == "connected" {
            // The instance reconnects to a WhatsApp that does not answer.
            expected["status"] = json!("connecting");
            expected.as_object_mut().unwrap().remove("reason");
        }
        if name == "shop" {
            // The rows of the running job are still being queued.
            expected.as_object_mut().unwrap().remove("queue_depth");
        }
        eventually(name, async || {
            let found = old.world.get(&format!("/instances/{name}")).await.body["data"].clone();
            let differences = differences(name, &expected, &found);
            if differences.is_empty() { Ok(()) } else { Err(differences) }
        })
        .await;
    }
    assert_eq!(old.world.get("/instances").await.body["total"], old.list("instances").len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn node_loads_all_messages_and_queues_of_the_folder() {
    let old = Old::open(|_| {}).await;
    for expected in old.list("messages") {
        let what = text(expected, "what");
        match expected["afterwards"].as_str() {
            Some(afterwards) => drop(old.until_status(what, &[afterwards]).await),
            None => assert_eq!(old.view(what).await, expected["view"], "{what}"),
        }
    }
    for expected in old.list("queues") {
        let (name, mut expected) = (text(expected, "instance_id"), expected.clone());
        // An attempt that was in flight at the kill holds its lane. A linked device repeats such an attempt instead.
        let held = if name == "shop" { count(&expected["held"]) + count(&expected["in_flight"]) } else { 0 };
        (expected["held"], expected["in_flight"]) = (json!(held), json!(0));
        if name == "shop" {
            // The rows of the running job are still being queued.
            expected["depth"] = json!({ "transactional": expected["depth"]["transactional"] });
        }
        eventually(&format!("the queue of {name}"), async || {
            let found = old.world.get(&format!("/instances/{name}/queue")).await.body["data"].clone();
            let differences = differences(name, &expected, &found);
            if differences.is_empty() { Ok(()) } else { Err(differences) }
        })
        .await;
    }
    for (name, expected) in old.listing["scheduled"].as_object().unwrap() {
        assert_eq!(
            &json!(old.all(&format!("/instances/{name}/scheduled"), "data").await),
            expected,
            "{name}"
        );
    }
    assert_eq!(json!(old.all("/dead-letters", "data").await), old.listing["dead_letters"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idempotency_keys_of_the_folder_are_honoured() {
    let old = Old::open(|_| {}).await;
    for keyed in old.list("keyed") {
        let send = async |body: String| {
            let request = old.world.request(Method::POST, text(keyed, "path")).header("X-Async", "true");
            Answer::of(request.header("Idempotency-Key", text(keyed, "key")).body(body)).await
        };
        let again = send(text(keyed, "body").to_owned()).await;
        let named = [&again.body["message_id"], &again.body["task_id"]];
        assert!(again.status.is_success() && named.contains(&&keyed["names"]), "{keyed}: {again:?}");
        if again.body["message_id"].is_string() {
            let mut other: Value = serde_json::from_str(text(keyed, "body")).unwrap();
            other["message"] = json!("Adios");
            assert_eq!(send(other.to_string()).await.status, 409, "{keyed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn node_loads_all_jobs_and_tasks_of_the_folder() {
    let old = Old::open(|_| {}).await;
    for expected in old.list("jobs") {
        let (what, path) = (text(expected, "what"), format!("/jobs/{}", old.job(text(expected, "what"))));
        if what == "processing" {
            continue;
        }
        assert_has(what, &expected["view"], &old.world.get(&path).await.body);
        for list in ["results", "errors"] {
            let mut rows = expected[list].clone();
            for row in rows.as_array_mut().unwrap().iter_mut().filter(|row| row["status"] == "queued") {
                // These rows came back when their instance was deleted. The old binary showed them as queued.
                row["status"] = json!("pending");
                row["timestamp"] = Value::Null;
            }
            assert_eq!(json!(old.all(&format!("{path}/{list}"), "data").await), rows, "{what}");
        }
    }
    let (expected, path) = (old.entry("jobs", "processing"), format!("/jobs/{}", old.job("processing")));
    let rows = expected["results"].as_array().unwrap();
    let in_flight = rows.iter().filter(|row| row["status"] == "queued").count();
    let found = eventually("the rows that were in flight to be ambiguous", async || {
        let job = old.world.get(&path).await.body;
        if job["progress"]["ambiguous"] == in_flight { Ok(job) } else { Err(job) }
    })
    .await;
    let progress = &found["progress"];
    assert_eq!((&found["status"], &progress["total"]), (&json!("processing"), &json!(rows.len())));
    assert_eq!(progress["sent"], expected["view"]["progress"]["sent"]);
    for (expected, found) in rows.iter().zip(old.all(&format!("{path}/results"), "data").await) {
        match text(expected, "status") {
            "queued" => assert_eq!(found["status"], "ambiguous", "{found}"),
            "pending" => assert!(found["status"] == "pending" || found["status"] == "queued", "{found}"),
            _ => assert_eq!(expected, &found),
        }
    }
    for expected in old.list("tasks") {
        let path = format!("/api/task-status/{}", text(&expected["view"], "task_id"));
        assert_eq!(old.world.get(&path).await.body, expected["view"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn node_loads_all_events_and_endpoint_cursors_of_the_folder() {
    let old = Old::open(|_| {}).await;
    for (name, expected) in old.listing["events"].as_object().unwrap() {
        let found = old.all(&format!("/instances/{name}/events?limit=1000"), "data").await;
        let (expected, last) = (expected.as_array().unwrap(), expected.as_array().unwrap().len());
        assert!(found.len() >= last, "{name}: {} events instead of {last}", found.len());
        for (expected, found) in expected.iter().zip(&found) {
            assert_eq!(expected, found, "{name}");
        }
        // Events since the start of this node follow.
        let sequences: Vec<_> = found.iter().map(|event| count(&event["sequence"])).collect();
        assert!(sequences.is_sorted_by(|earlier, later| earlier < later), "{name}: {sequences:?}");
    }
    for expected in old.list("endpoints") {
        let (what, path) = (text(expected, "what"), format!("/webhooks/{}", text(expected, "endpoint_id")));
        let found = old.world.get(&path).await.body["data"].clone();
        let mut config = expected.clone();
        let config_fields = config.as_object_mut().unwrap();
        let removed = ["what", "lag", "parked"].map(|field| config_fields.remove(field).unwrap());
        assert_has(what, &config, &found);
        assert!(count(&found["lag"]["events"]) >= count(&removed[1]), "{what}: {found}");
        assert_eq!(json!(old.all(&format!("{path}/parked"), "data").await), removed[2], "{what}");
    }
    assert_eq!(old.world.get("/webhooks").await.body["total"], old.list("endpoints").len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn node_loads_contacts_kept_webhooks_relay_frames_and_media_of_the_folder() {
    let old = Old::open(|_| {}).await;
    for (name, path, field) in [
        ("suppressions", "/suppressions", "data"),
        ("numbers", "/api/numbers", "numbers"),
        ("kept_webhooks", "/webhook/kept", "data"),
    ] {
        assert_eq!(json!(old.all(path, field).await), old.listing[name], "{name}");
    }
    let lengths = old.world.get("/api/queue/lengths").await.body["queue_lengths"].clone();
    assert_eq!(lengths["pending"], old.listing["relay_pending"]);
    for media in old.list("media") {
        let path =
            format!("/instances/{}/messages/{}/media", text(media, "instance"), text(media, "message_id"));
        let answer = old.world.request(Method::GET, &path).send().await.unwrap();
        if media["kept"] == true {
            assert_eq!(answer.status(), 200, "{media}");
            let hex: String =
                Sha256::digest(answer.bytes().await.unwrap()).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, media["sha256"]);
        } else {
            // The node has the media id, but the file is only at WhatsApp, which does not answer.
            assert_eq!(answer.status(), 503, "{media}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn api_key_of_the_folder_is_accepted() {
    let folder = unpack();
    let key = fs::read_to_string(folder.path().join("data/api_key")).unwrap();
    let old = Old::open_in(folder, |settings| settings.auth.api_key = None).await;
    let url = format!("http://{}/instances", old.world.node.address);
    for (key, status) in [(key.trim(), 200), (KEY, 401)] {
        let request = reqwest::Client::new().get(&url).header("X-API-Key", key);
        assert_eq!(Answer::of(request).await.status, status, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linked_devices_of_the_folder_log_in_with_their_device_ids() {
    let web = whatsapp().await;
    let old = Old::open(|settings| settings.linked.server = web.url()).await;
    let mut expected = Vec::new();
    for instance in old.list("instances") {
        let Some((device, _)) = instance["jid"].as_str().and_then(|jid| jid.split_once('@')) else {
            continue;
        };
        // This WhatsApp does not have the device. The fault leaves its login without an answer.
        web.arm(FaultRule::always(text(instance, "phone"), Fault::IgnoreLogin)).unwrap();
        if instance["status"] == "connected" {
            expected.push(device.to_owned());
        }
    }
    assert_eq!(expected.len(), 2, "{expected:?}");
    let logged_in = || {
        let moments = web
            .connection_records()
            .into_iter()
            .filter(|moment| moment.turn == ConnectionTransition::Refused);
        moments.filter_map(|moment| moment.device).collect::<Vec<_>>()
    };
    soon(
        "all devices to log in",
        web.wait_until(|_| expected.iter().all(|device| logged_in().contains(device))),
    )
    .await;
    assert!(logged_in().iter().all(|device| expected.contains(device)), "{:?}", logged_in());
}

/// WhatsApp, the relay consumer and the webhook receiver answer again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_work_of_the_folder_continues() {
    let mut consumer = Consumer::start().await;
    let receiver = Receiver::start().await;
    let relay = format!("ws://{}/ws", consumer.address);
    let old = Old::open(|settings| settings.relay.url = Some(relay.parse().unwrap())).await;
    for instance in ["shop", "annex", "barred"] {
        old.point_to_sandbox(instance).await;
    }
    old.world.post("/instances/annex/connect", json!({})).await;
    old.world.post("/instances/barred/resume", json!({})).await;
    old.world.until_state("shop", "connected").await;

    // Queued messages are sent in order.
    for what in
        ["queued 0", "queued 1", "queued 2", "queued with a key", "a queued picture", "barred 0", "barred 1"]
    {
        old.until_status(what, &["sent", "delivered", "read"]).await;
    }
    let bodies = |messages: Vec<Value>| {
        messages.iter().map(|message| message["text"]["body"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(bodies(old.bodies_to("573110000010").await), ["0", "1", "2"]);
    assert_eq!(bodies(old.bodies_to("573110000020").await), ["0", "1"]);
    assert!(old.bodies_to("573110000012").await[0]["image"]["id"].is_string());

    // A status settles each ambiguous attempt, and the message behind it in the lane is sent.
    for (what, behind) in
        [("ambiguous", "behind what is ambiguous"), ("under way, hanging before", "behind what is under way")]
    {
        old.until_status(what, &["ambiguous"]).await;
        assert_eq!(old.view(behind).await["status"], "queued");
        let delivered = json!({
            "id": format!("wamid.{behind}"), "status": "delivered", "timestamp": "1763800000",
            "recipient_id": old.view(what).await["to"], "biz_opaque_callback_data": old.id(what),
        });
        let taken =
            post_webhook(&old.world, webhook_about(SHOP, "messages", json!({ "statuses": [delivered] })))
                .await;
        assert_eq!(taken.status, 200, "{taken:?}");
        old.until_status(what, &["delivered"]).await;
        old.until_status(behind, &["sent", "delivered", "read"]).await;
    }

    // Dead letters still hold their content.
    for what in ["dead, permanent", "dead, ambiguous"] {
        let path = format!("/instances/shop/dead-letters/{}/redrive", old.id(what));
        assert_eq!(old.world.post(&path, json!({})).await.status, 200, "{what}");
        old.until_status(what, &["sent", "delivered", "read"]).await;
    }
    assert_eq!(bodies(old.bodies_to("573100000017").await), ["Se queda"]);
    assert_eq!(old.bodies_to("573100000019").await[0]["image"]["caption"], "foto");

    // Jobs send the remaining rows and no others.
    old.world.post(&format!("/jobs/{}/resume", old.job("paused")), json!({})).await;
    for what in ["paused", "processing"] {
        let path = format!("/jobs/{}", old.job(what));
        let rows = old.entry("jobs", what)["results"].as_array().unwrap();
        let known = |row: &&Value| what == "processing" && row["status"] == "queued";
        let sent = rows.len() - rows.iter().filter(known).count();
        eventually(&format!("the remaining rows of the job {what}"), async || {
            let job = old.world.get(&path).await.body;
            if job["progress"]["sent"] == sent { Ok(()) } else { Err(job) }
        })
        .await;
        for row in rows {
            let left = row["status"] == "pending" || (what == "paused" && row["status"] == "queued");
            let bodies_to = old.bodies_to(text(row, "phone").trim_start_matches('+')).await;
            assert_eq!(bodies_to.len(), usize::from(left), "{row}: {bodies_to:?}");
        }
    }

    // The endpoint that refused all deliveries receives the missed events once.
    let endpoint = format!("/webhooks/{}", text(old.entry("endpoints", "down"), "endpoint_id"));
    let path = format!("{endpoint}/deliveries?instance=shop&limit=100");
    let missed = old.world.get(&path).await.body["data"].as_array().unwrap().clone();
    let missed: Vec<_> = missed.iter().filter(|it| it["state"] != "delivered").collect();
    let acks = missed.iter().filter(|it| it["type"] == "message_ack");
    let acks: Vec<_> = acks.map(|it| &it["sequence"]).collect();
    let events = old.list_of_events("shop").iter().filter(|event| acks.contains(&&event["sequence"]));
    let acks: Vec<_> = events.map(|event| event["data"]["correlation_id"].clone()).collect();
    assert!(acks.len() >= 3, "{missed:?}");
    let moved = old.world.request(Method::PUT, &endpoint).json(&json!({ "url": receiver.url() }));
    assert_eq!(Answer::of(moved).await.status, 200);
    eventually("the missed events", async || {
        let taken = receiver.taken("message_ack").into_iter().map(|it| it.body);
        let taken = taken.filter(|body| body["instance_id"] == "shop");
        let taken: Vec<_> = taken.map(|body| body["data"]["correlation_id"].clone()).collect();
        if taken.starts_with(&acks) { Ok(()) } else { Err(taken) }
    })
    .await;

    // The relay delivers its queue in order.
    let mut before = 0.0;
    for n in 0..count(&old.listing["relay_pending"]) {
        let queued_at = consumer.frame().await["queued_at"].as_f64().unwrap();
        assert!(queued_at >= before, "frame {n}: {queued_at} after {before}");
        before = queued_at;
    }
}
