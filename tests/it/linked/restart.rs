//! Reconnection of many linked devices after a restart of WhatsApp.

use std::time::Duration;

use relevo_sandbox_web::ConnectionTransition;
use reqwest::Method;
use serde_json::json;

use super::Linked;
use crate::support::Answer;

/// Number of devices.
const DEVICES: usize = 30;

/// Longest wait until all devices are online.
const TIMEOUT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_reconnect_after_a_restart_of_whatsapp_with_jitter() {
    let linked = Linked::with(|settings| settings.linked.reconnect_max_delay = Duration::from_secs(5)).await;
    for n in 0..DEVICES {
        let id = format!("shop-{n}");
        let created = linked.world.post("/instances", json!({ "instance_id": id })).await;
        assert_eq!(created.status, 201, "{created:?}");
        linked.web.phone(&format!("57300{n:07}")).scan(&linked.code(&id).await).unwrap();
    }
    until_all_online(&linked, "after pairing").await;

    let before = linked.web.connection_records().len();
    linked.web.restart(Duration::from_millis(500));
    until_all_online(&linked, "after the restart").await;
    let logins: Vec<u64> = linked
        .web
        .connection_records()
        .iter()
        .skip(before)
        .filter(|moment| moment.turn == ConnectionTransition::LoggedIn)
        .map(|moment| moment.at_ms)
        .collect();
    let first = logins.iter().min().copied().unwrap_or_default();
    let busiest = logins
        .chunk_by(|earlier, later| (earlier - first) / 250 == (later - first) / 250)
        .map(<[u64]>::len)
        .max();
    assert!(
        busiest.unwrap_or_default() < DEVICES / 2,
        "half of the devices logged in within 250 ms: {logins:?}"
    );

    let health = Answer::of(linked.world.request(Method::GET, "/health")).await;
    assert_eq!(health.status, 200, "{health:?}");
}

/// Waits until all devices are online. Fails with the node's view of the missing ones.
async fn until_all_online(linked: &Linked, when: &str) {
    let online = linked.web.wait_until(|web| web.online_count() == DEVICES);
    if tokio::time::timeout(TIMEOUT, online).await.is_err() {
        let body = linked.world.get("/instances").await.body;
        let all = body["data"].as_array().unwrap().iter();
        let missing: Vec<_> = all.filter(|instance| instance["status"] != "connected").collect();
        panic!("{when} {} are online; not connected: {missing:#?}", linked.web.online_count());
    }
}
