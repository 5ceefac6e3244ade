//! Failures of the connection between a linked device and WhatsApp.

use std::time::Duration;

use relevo_sandbox_web::{ConnectionTransition, Disconnection, Fault, FaultRule, WebHandle};
use serde_json::json;

use super::{Linked, soon};

const SHOP: &str = "573001112233";
const ANA: &str = "573004445566";

async fn send(linked: &Linked, text: &str) -> crate::support::Answer {
    linked.world.queue("/instances/shop/messages/text", json!({ "phone": ANA, "message": text })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnect_loses_and_duplicates_no_message() {
    let linked = Linked::new().await;
    let shop = linked.pair("shop", SHOP).await;
    let mut seen = linked.web.phone(ANA).watch();
    let faults = [Fault::CutBefore, Fault::CutUnacked, Fault::CutAfter, Fault::LoseAck];
    for (n, fault) in faults.into_iter().enumerate() {
        linked.web.arm(FaultRule::once(SHOP, fault)).unwrap();
        let queued = send(&linked, &n.to_string()).await;
        linked.world.until_status(&queued.id(), &["sent", "delivered"]).await;
        assert_eq!(soon("the message", seen.message()).await.text(), Some(n.to_string().as_str()));
    }
    linked.web.disconnect(&shop, None, Disconnection::Cut);
    let last = send(&linked, "last").await;
    linked.world.until_status(&last.id(), &["sent", "delivered"]).await;
    assert_eq!(soon("the last message", seen.message()).await.text(), Some("last"));
    let journal = linked.web.journal();
    let sent = journal.iter().filter(|entry| entry.from == format!("{SHOP}:1@s.whatsapp.net"));
    assert_eq!(sent.count(), 5, "{journal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mute_connection_is_replaced_and_the_queue_continues() {
    let linked = Linked::with(|settings| {
        settings.instance.linked.probe_interval = Duration::from_millis(500);
        settings.instance.linked.probe_timeout = Duration::from_secs(1);
    })
    .await;
    let shop = linked.pair("shop", SHOP).await;
    let mut seen = linked.web.phone(ANA).watch();
    assert_eq!(linked.web.mute(&shop, None, true), 1);
    let queued = send(&linked, "Hola").await;
    assert_eq!(soon("the message", seen.message()).await.text(), Some("Hola"));
    linked.world.until_status(&queued.id(), &["sent", "delivered"]).await;
    let metrics = linked.world.get("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains("relevo_instance_restarts"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_login_sets_the_state_of_the_instance() {
    for (reason, state, code) in
        [(401, "logged_out", "logged_out"), (402, "paused", "banned"), (405, "paused", "client_outdated")]
    {
        let linked = Linked::new().await;
        let shop = linked.pair("shop", SHOP).await;
        linked
            .web
            .arm(FaultRule::always(SHOP, Fault::RefuseLogin { reason, expires_in_s: Some(3600) }))
            .unwrap();
        linked.web.disconnect(&shop, None, Disconnection::Cut);
        let instance = linked.world.until_state("shop", state).await;
        assert_eq!(instance["reason"]["code"], code, "{instance}");
        assert_eq!(send(&linked, "later").await.status, 202);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_connection_pauses_the_instance_until_resumed() {
    let linked = Linked::new().await;
    let shop = linked.pair("shop", SHOP).await;
    linked.web.disconnect(&shop, None, Disconnection::Replaced);
    let instance = linked.world.until_state("shop", "paused").await;
    assert_eq!(instance["reason"]["code"], "replaced", "{instance}");
    linked.world.post("/instances/shop/resume", json!({})).await;
    linked.world.until_state("shop", "connected").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nack_463_defers_the_message() {
    let linked = Linked::new().await;
    linked.pair("shop", SHOP).await;
    linked.web.phone(ANA);
    linked.web.arm(FaultRule::once(SHOP, Fault::Nack { code: 463 })).unwrap();
    let queued = send(&linked, "Hola").await;
    let view = linked.world.until_status(&queued.id(), &["deferred"]).await;
    assert!(view.to_string().contains("463"), "{view}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_late_and_garbled_deliveries_become_one_event_each() {
    let linked = Linked::new().await;
    let shop = linked.pair("shop", SHOP).await;
    let ana = linked.web.phone(ANA);
    let say = |n: usize| ana.send_text(&shop.jid(), &n.to_string()).unwrap();
    say(0);
    for (fault, numbers) in
        [(Fault::DeliverTwice, 1..2), (Fault::DeliverLate, 2..4), (Fault::DeliverGarbled, 4..5)]
    {
        let known = numbers.end;
        linked.web.arm(FaultRule::once(SHOP, fault)).unwrap();
        numbers.for_each(|n| drop(say(n)));
        linked.events("shop", "message", known).await;
    }
    // The node requested the garbled message again.
    assert_eq!(linked.events("shop", "undecryptable", 1).await.len(), 1);
    say(5);
    let events = linked.events("shop", "message", 6).await;
    let texts: Vec<_> = events.iter().map(|event| event["data"]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["0", "1", "3", "2", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_is_not_acknowledged_while_the_disk_is_full() {
    let mut linked = Linked::new().await;
    let shop = linked.pair("shop", SHOP).await;
    linked.world.settings.store.min_free_space = u64::MAX / 2;
    linked.world.restart_node().await;
    let before = linked.web.connection_records().len();
    linked.web.phone(ANA).send_text(&shop.jid(), "Hola").unwrap();
    // The node closes the connection when it cannot store a received message.
    let closed_twice = |web: &WebHandle| {
        let later = web.connection_records().into_iter().skip(before);
        later.filter(|moment| moment.turn == ConnectionTransition::Closed).count() >= 2
    };
    soon("two attempts", linked.web.wait_until(closed_twice)).await;
    assert_eq!(linked.events("shop", "message", 0).await.len(), 0);

    linked.world.settings.store.min_free_space = 0;
    linked.world.restart_node().await;
    assert_eq!(linked.events("shop", "message", 1).await[0]["data"]["text"], "Hola");
    soon("the acknowledgement", linked.web.wait_until(|web| web.queue_len(&shop, 1) == 0)).await;
}
