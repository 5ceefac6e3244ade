//! Pairing, unlinking and what remains stopped across restarts.

use serde_json::json;

use super::fixture::{InstanceFixture, SECOND, account};
use crate::instance::{Error, PairingCode, ReadMessage};
use relevo_domain::InstanceState::{Connected, Connecting, Disconnected, LoggedOut, Paused};
use relevo_domain::{InstanceId, InstanceNumber};
use relevo_provider::{LinkEnd, LinkEvent};

/// Requests a QR code in a task and waits until a connection has begun for it.
async fn request_qr_code(
    world: &InstanceFixture,
    id: &InstanceId,
) -> tokio::task::JoinHandle<Result<crate::instance::QrCode, Error>> {
    let (instances, id) = (world.instances.clone(), id.clone());
    let count = world.connections();
    let asked = tokio::spawn(async move { instances.qr_code(&id).await });
    world.wait_for_connections(count + 1).await;
    asked
}

fn qr_code(qr: &str) -> LinkEvent {
    LinkEvent::QrCode { qr: qr.to_owned(), valid_for: 20 * SECOND }
}

async fn deliver_qr_code(world: &InstanceFixture, number: InstanceNumber, qr: &str) {
    world.deliver_link_event(number, LinkEvent::Connecting).await;
    world.deliver_link_event(number, qr_code(qr)).await;
}

#[tokio::test(start_paused = true)]
async fn qr_code_is_published_rotated_and_cleared_when_linked() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create("shop").await;
    let asked = request_qr_code(&world, &id).await;
    deliver_qr_code(&world, number, "2@first").await;
    let found = asked.await.unwrap().unwrap();
    assert_eq!(found.text, "2@first");
    assert_eq!(found.expires_at, world.bench.clock.now() + 20 * SECOND);
    assert_eq!(world.state(&id).reason.code, "pairing");

    world.deliver_link_event(number, qr_code("2@second")).await;
    let rotated =
        |view: &crate::instance::StateView| view.qr_code.as_ref().is_some_and(|c| c.text == "2@second");
    world.wait_for_view(&id, rotated).await;
    assert_eq!(
        world.instances.qr_code(&id).await.unwrap().text,
        "2@second",
        "a later request gets the newest code"
    );

    world.deliver_link_event(number, LinkEvent::Linked(account())).await;
    world.deliver_link_event(number, LinkEvent::Connected(account())).await;
    assert_eq!(world.wait_for_state(&id, Connected).await.qr_code, None);
    assert_eq!(world.instances.get(&id).unwrap().account, Some(account()));
    assert!(
        matches!(world.instances.qr_code(&id).await, Err(Error::AlreadyLinked(jid)) if jid == account().jid)
    );

    let events = world.events(number, "status").await;
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["qr", "qr", "paired", "status"]);
    assert_eq!(events[0].1["qr"], "2@first");
    let paired = json!({
        "jid": account().jid, "lid": "1234@lid", "phone": "573009999999", "name": "Shop",
    });
    assert_eq!(events[2].1, paired);
    assert_eq!(events[3].1["status"], "connected");
}

#[tokio::test(start_paused = true)]
async fn qr_code_request_times_out() {
    let world = InstanceFixture::open().await;
    let (id, _) = world.create("shop").await;
    let asked = request_qr_code(&world, &id).await;
    world.advance(31 * SECOND).await;
    assert!(matches!(asked.await.unwrap(), Err(Error::QrCodeTimeout)));
}

#[tokio::test(start_paused = true)]
async fn phone_can_be_linked_by_pairing_code() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create("shop").await;
    let (instances, name) = (world.instances.clone(), id.clone());
    let phone = "573009999999".parse().unwrap();
    let asked = tokio::spawn(async move { instances.request_pairing_code(&name, &phone).await });
    world.wait_for_connections(1).await;
    deliver_qr_code(&world, number, "2@x").await;
    let expected = PairingCode { code: "ABCD1234".to_owned(), valid_for: 180 * SECOND };
    assert_eq!(asked.await.unwrap().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn pairing_ends_with_the_last_code_and_restarts_only_on_request() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create("shop").await;
    let asked = request_qr_code(&world, &id).await;
    deliver_qr_code(&world, number, "2@x").await;
    asked.await.unwrap().unwrap();
    world.deliver_link_event(number, LinkEvent::QrCodesExhausted).await;
    let view = world.wait_for_state(&id, Disconnected).await;
    assert_eq!((view.reason.code.as_str(), view.qr_code), ("pairing_timeout", None));
    world.wait_for_disconnect(number).await;

    let world = world.restart().await;
    assert_eq!(world.connections(), 0, "a restart of the node must not begin pairing");
    assert_eq!(world.state(&id).reason.code, "pairing_timeout");
    let asked = request_qr_code(&world, &id).await;
    deliver_qr_code(&world, number, "2@y").await;
    assert_eq!(asked.await.unwrap().unwrap().text, "2@y");
}

#[tokio::test(start_paused = true)]
async fn rejected_instance_stays_stopped_across_restarts() {
    let mut world = InstanceFixture::open().await;
    let banned = LinkEnd::Banned { until: None, reason: "spam".to_owned() };
    for (name, end, state, code) in [
        ("a", LinkEnd::LoggedOut, LoggedOut, "logged_out"),
        ("b", LinkEnd::Replaced, Paused, "replaced"),
        ("c", banned, Paused, "banned"),
        ("d", LinkEnd::ClientOutdated, Paused, "client_outdated"),
    ] {
        let (id, number) = world.create_connected(name).await;
        world.deliver_link_event(number, LinkEvent::Ended(end)).await;
        assert_eq!(world.wait_for_state(&id, state).await.reason.code, code);
        world.wait_for_disconnect(number).await;
        assert_eq!(world.instances.get(&id).unwrap().account.is_some(), state == Paused);
        // Its queue is kept and accepts messages.
        world.send(&id).await;
        assert_eq!(world.instances.depth(&id).unwrap().total(), 1);
        if state == Paused {
            let Err(Error::AlreadyLinked(_)) = world.instances.qr_code(&id).await else { panic!("{name}") };
        }
        world = world.restart().await;
        assert_eq!(world.connections(), 0, "{name}");
        assert_eq!(world.state(&id).reason.code, code);
    }
}

#[tokio::test(start_paused = true)]
async fn logout_unlinks_the_device_and_deletes_the_account() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_connected("shop").await;
    let queued = world.send(&id).await;
    let (instances, name) = (world.instances.clone(), id.clone());
    let asked = tokio::spawn(async move { instances.logout(&name).await });
    // A second client connects to unlink the device.
    world.wait_for_connections(2).await;
    let Err(Error::NotConnected { reason, .. }) = world.instances.connect(id.clone()).await else { panic!() };
    assert_eq!(reason.code, "logging_out");
    world.deliver_link_event(number, LinkEvent::Connected(account())).await;
    let view = asked.await.unwrap().unwrap();
    assert_eq!((view.state.state, view.account), (LoggedOut, None));
    assert_eq!(*world.net.unlinked.lock().unwrap(), [number]);
    world.bench.view(queued);

    let asked = request_qr_code(&world, &id).await;
    deliver_qr_code(&world, number, "2@again").await;
    assert_eq!(asked.await.unwrap().unwrap().text, "2@again");
}

#[tokio::test(start_paused = true)]
async fn deleted_instance_is_unlinked_even_when_whatsapp_is_unreachable() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_connected("shop").await;
    world.instances.disconnect(id.clone()).await.unwrap();
    world.wait_for_disconnect(number).await;
    assert_eq!(world.instances.get(&id).unwrap().account, Some(account()), "the link is kept");
    world.delete(number).await;
    world.wait_for_connections(2).await;
    world.advance(21 * SECOND).await;
    super::fixture::eventually("the device to be unlinked", || {
        *world.net.unlinked.lock().unwrap() == [number]
    })
    .await;
    assert!(world.instances.get(&id).is_err());
}

#[tokio::test(start_paused = true)]
async fn only_a_connected_instance_marks_messages_as_read() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_connected("shop").await;
    let read = || ReadMessage { message: "3EB0".parse().unwrap(), chat: None, sender: None };
    world.instances.mark_read(&id, read(), false).await.unwrap();
    assert_eq!(world.net.read.lock().unwrap().len(), 1);
    let lost = LinkEvent::Disconnected { reason: "reset".to_owned(), retry_in: 3 * SECOND };
    world.deliver_link_event(number, lost).await;
    world.wait_for_state(&id, Connecting).await;
    let refused = world.instances.mark_read(&id, read(), false).await;
    assert!(matches!(refused, Err(Error::NotConnected { .. })), "{refused:?}");
}
