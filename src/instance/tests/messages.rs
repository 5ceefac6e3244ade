//! Sent and received messages while connections are lost and restored.

use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::{InstanceFixture, SECOND, account};
use relevo_domain::InstanceState::{Connected, Connecting};
use relevo_domain::{
    Chat, Identity, InboundContent, InboundMessage, Receipt, Sender, Status, StatusUpdate, Timestamp,
};
use relevo_provider::{ConnectionEvent, LinkEvent};

fn disconnected() -> LinkEvent {
    LinkEvent::Disconnected { reason: "reset".to_owned(), retry_in: 3 * SECOND }
}

fn message(id: &str) -> InboundMessage {
    InboundMessage {
        id_scope: None,
        id: id.parse().unwrap(),
        sender: Sender {
            identity: Identity::new(Some("573001234567"), None).unwrap(),
            name: Some("Ana".to_owned()),
            username: None,
        },
        chat: Chat::Direct,
        at: Timestamp(1_763_800_000_000),
        context: None,
        referral: None,
        content: InboundContent::Text("hola".to_owned()),
        errors: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_the_connection_instead_of_failing() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_connected("shop").await;
    let first = world.send(&id).await;
    world.bench.wait_for_status(first, Status::Sent).await;

    world.deliver_link_event(number, disconnected()).await;
    let view = world.wait_for_state(&id, Connecting).await;
    assert_eq!(view.reason.code, "unreachable");
    assert_eq!(view.next_attempt_at, Some(world.bench.clock.now() + 3 * SECOND));
    let second = world.send(&id).await;
    world.advance(60 * SECOND).await;
    // A lease request that was under way may have leased the message; its lease is returned.
    let waiting = world.bench.wait_for_status(second, Status::Queued).await;
    assert_eq!(waiting.attempts, 0);

    world.deliver_link_event(number, LinkEvent::Connecting).await;
    world.deliver_link_event(number, LinkEvent::Connected(account())).await;
    let sent = world.bench.wait_for_status(second, Status::Sent).await;
    assert_eq!(sent.attempts, 1);
    assert_eq!(world.connections(), 1, "the client reconnects by itself");
}

#[tokio::test(start_paused = true)]
async fn unresponsive_connection_is_replaced_within_a_minute_and_keeps_its_queue() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_connected("shop").await;
    world.net.unanswered_probes.lock().unwrap().insert(number);
    let mut waited = Duration::ZERO;
    while world.connections() < 2 {
        world.advance(SECOND).await;
        waited += SECOND;
        assert!(waited <= 60 * SECOND, "the connection was not replaced");
    }
    let view = world.state(&id);
    assert_eq!((view.state, view.restarts), (Connecting, 1));
    let is_disconnected = |kind: &str, data: &Value| kind == "status" && data["status"] == "disconnected";
    let events = world.wait_for_events(number, is_disconnected).await;
    let (_, data) = events.iter().find(|(kind, data)| is_disconnected(kind, data)).unwrap();
    assert_eq!(data["reason"], "zombie");

    let queued = world.send(&id).await;
    world.net.unanswered_probes.lock().unwrap().clear();
    world.deliver_link_event(number, LinkEvent::Connected(account())).await;
    world.bench.wait_for_status(queued, Status::Sent).await;
}

#[tokio::test(start_paused = true)]
async fn client_that_ends_without_notice_is_replaced() {
    let world = InstanceFixture::open().await;
    let (id, _) = world.create_connected("shop").await;
    world.net.close_connections();
    world.wait_for_state(&id, Connecting).await;
    world.advance(2 * SECOND).await;
    world.wait_for_connections(2).await;
}

#[tokio::test(start_paused = true)]
async fn panicking_client_does_not_affect_other_instances() {
    let world = InstanceFixture::open().await;
    let (ana, first) = world.create_connected("ana").await;
    let (eva, _) = world.create_connected("eva").await;
    world.net.panicking.lock().unwrap().insert(first);
    let (lost, sent) = (world.send(&ana).await, world.send(&eva).await);
    world.wait_for_status(&eva, sent, Status::Sent).await;
    // The outcome is unknown, and WhatsApp dedupes a resend, so the message is queued again.
    let tried = world.wait_for_message(&ana, lost, |view| view.failure.is_some()).await;
    assert_eq!(tried.status, Status::Queued);
    assert!(tried.failure.unwrap().message.contains("crashed"));
    world.advance(40 * SECOND).await;
    assert_eq!(world.state(&ana).restarts, 1, "its probes panic too");
    assert_eq!((world.state(&eva).state, world.state(&eva).restarts), (Connected, 0));
}

#[tokio::test(start_paused = true)]
async fn messages_are_acknowledged_after_commit_and_logged_once() {
    let world = InstanceFixture::open().await;
    let (_, number) = world.create_connected("shop").await;
    assert!(world.deliver_messages(number, vec![message("3EB0AA"), message("3EB0BB")]).await);
    assert!(world.deliver_messages(number, vec![message("3EB0BB")]).await, "a duplicate is acknowledged too");
    let events = world.events(number, "message").await;
    let messages: Vec<_> = events.iter().filter(|(kind, _)| kind == "message").collect();
    assert_eq!(messages.len(), 2);
    assert_eq!((&messages[0].1["message_id"], &messages[0].1["text"]), (&"3EB0AA".into(), &"hola".into()));
}

#[tokio::test(start_paused = true)]
async fn receipts_update_the_ledger_and_other_events_go_to_the_log() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_connected("shop").await;
    let sent = world.send(&id).await;
    world.bench.wait_for_status(sent, Status::Sent).await;
    let status = |receipt, participant: Option<&str>| StatusUpdate {
        provider_id: "3EB0".parse().unwrap(),
        our_id: Some(sent),
        receipt,
        at: Timestamp(1_763_800_001_000),
        recipient: Some("573001234567".to_owned()),
        participant: participant.map(str::to_owned),
        failure: None,
    };
    world.deliver(number, ConnectionEvent::Statuses(vec![status(Receipt::Delivered, None)])).await;
    world.wait_for_status(&id, sent, Status::Delivered).await;
    world.deliver(number, ConnectionEvent::Statuses(vec![status(Receipt::Read, Some("573007654321"))])).await;
    world.wait_for_status(&id, sent, Status::Read).await;
    let data = json!({ "from": "573001234567@s.whatsapp.net", "state": "composing", "media": "" });
    let event = ConnectionEvent::Other {
        kind: relevo_domain::EventKind::Presence,
        at: Timestamp(1_763_800_002_000),
        data,
    };
    world.deliver(number, event).await;
    let events = world.events(number, "presence").await;
    let (_, presence) = events.iter().find(|(kind, _)| kind == "presence").unwrap();
    assert_eq!((&presence["state"], &presence["timestamp"]), (&"composing".into(), &1_763_800_002.into()));
    let of_participant = |data: &Value| data["participant"] == "573007654321@s.whatsapp.net";
    assert!(events.iter().any(|(_, data)| of_participant(data)), "{events:?}");
}
