//! Many linked devices in one process, when WhatsApp goes away and comes back.

use std::time::Duration;

use relevo_sandbox_web::ConnectionTransition;
use reqwest::Method;
use serde_json::json;

use super::Linked;
use crate::support::Answer;

/// Devices.
const MANY: usize = 30;

/// Longest wait for all of them at once.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_come_back_after_a_restart_of_whatsapp_and_not_at_once() {
    let linked = Linked::with(|settings| settings.linked.reconnect_max_delay = Duration::from_secs(5)).await;
    for n in 0..MANY {
        let id = format!("shop-{n}");
        let created = linked.world.post("/instances", json!({ "instance_id": id })).await;
        assert_eq!(created.status, 201, "{created:?}");
        linked.web.phone(&format!("57300{n:07}")).scan(&linked.code(&id).await).unwrap();
    }
    all_are_there(&linked, "after pairing").await;

    let before = linked.web.connection_records().len();
    linked.web.restart(Duration::from_millis(500));
    all_are_there(&linked, "after the restart").await;
    let logins: Vec<u64> = linked
        .web
        .connection_records()
        .iter()
        .skip(before)
        .filter(|moment| moment.turn == ConnectionTransition::LoggedIn)
        .map(|moment| moment.at_ms)
        .collect();
    let first = logins.iter().min().copied().unwrap_or_default();
    let busiest =
        logins.chunk_by(|one, other| (one - first) / 250 == (other - first) / 250).map(<[u64]>::len).max();
    assert!(busiest.unwrap_or_default() < MANY / 2, "a herd: {logins:?}");

    let health = Answer::of(linked.world.request(Method::GET, "/health")).await;
    assert_eq!(health.status, 200, "{health:?}");
}

/// Waits for all devices; if in vain, tells what the node knows of those that are missing.
async fn all_are_there(linked: &Linked, when: &str) {
    let online = linked.web.wait_until(|web| web.online_count() == MANY);
    if tokio::time::timeout(PATIENCE, online).await.is_err() {
        let body = linked.world.get("/instances").await.body;
        let all = body["data"].as_array().unwrap().iter();
        let missing: Vec<_> = all.filter(|instance| instance["status"] != "connected").collect();
        panic!("{when} {} are online; not connected: {missing:#?}", linked.web.online_count());
    }
}
