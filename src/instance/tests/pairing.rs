//! From nobody's device to somebody's, and back.

use serde_json::json;

use super::world::{SECOND, World, account};
use crate::instance::{Error, PairingCode, Read};
use relevo_domain::InstanceState::{Connected, Connecting, Disconnected, LoggedOut, Paused};
use relevo_domain::{InstanceId, InstanceNumber};
use relevo_provider::{LinkNews, Refused};

/// Asks for a code in a task of its own, and waits until a connection has begun for it.
async fn ask(
    world: &World,
    id: &InstanceId,
) -> tokio::task::JoinHandle<Result<crate::instance::Code, Error>> {
    let (instances, id) = (world.instances.clone(), id.clone());
    let count = world.connections();
    let asked = tokio::spawn(async move { instances.code(&id).await });
    world.until_connections(count + 1).await;
    asked
}

fn code(qr: &str) -> LinkNews {
    LinkNews::Code { qr: qr.to_owned(), lasts: 20 * SECOND }
}

async fn show(world: &World, number: InstanceNumber, qr: &str) {
    world.tell(number, LinkNews::Connecting).await;
    world.tell(number, code(qr)).await;
}

#[tokio::test(start_paused = true)]
async fn a_code_is_waited_for_shown_and_taken_by_a_phone() {
    let world = World::open().await;
    let (id, number) = world.create("shop").await;
    let asked = ask(&world, &id).await;
    show(&world, number, "2@first").await;
    let found = asked.await.unwrap().unwrap();
    assert_eq!(found.qr, "2@first");
    assert_eq!(found.expires_at, world.bench.clock.now() + 20 * SECOND);
    assert_eq!(world.state(&id).reason.code, "pairing");

    world.tell(number, code("2@second")).await;
    let rotated = |view: &crate::instance::StateView| view.code.as_ref().is_some_and(|c| c.qr == "2@second");
    world.until_view(&id, rotated).await;
    assert_eq!(world.instances.code(&id).await.unwrap().qr, "2@second", "whoever asks later gets the newest");

    world.tell(number, LinkNews::Linked(account())).await;
    world.tell(number, LinkNews::Connected(account())).await;
    assert_eq!(world.until(&id, Connected).await.code, None);
    assert_eq!(world.instances.get(&id).unwrap().account, Some(account()));
    assert!(matches!(world.instances.code(&id).await, Err(Error::Linked(jid)) if jid == account().jid));

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
async fn whoever_waits_in_vain_for_a_code_is_told_so() {
    let world = World::open().await;
    let (id, _) = world.create("shop").await;
    let asked = ask(&world, &id).await;
    world.pass(31 * SECOND).await;
    assert!(matches!(asked.await.unwrap(), Err(Error::NoCode)));
}

#[tokio::test(start_paused = true)]
async fn a_phone_can_be_given_a_code_to_type_in() {
    let world = World::open().await;
    let (id, number) = world.create("shop").await;
    let (instances, name) = (world.instances.clone(), id.clone());
    let phone = "573009999999".parse().unwrap();
    let asked = tokio::spawn(async move { instances.pair_code(&name, &phone).await });
    world.until_connections(1).await;
    show(&world, number, "2@x").await;
    let expected = PairingCode { code: "ABCD1234".to_owned(), lasts: 180 * SECOND };
    assert_eq!(asked.await.unwrap().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn pairing_ends_with_the_last_code_and_begins_again_only_when_somebody_asks() {
    let world = World::open().await;
    let (id, number) = world.create("shop").await;
    let asked = ask(&world, &id).await;
    show(&world, number, "2@x").await;
    asked.await.unwrap().unwrap();
    world.tell(number, LinkNews::CodesExhausted).await;
    let view = world.until(&id, Disconnected).await;
    assert_eq!((view.reason.code.as_str(), view.code), ("pairing_timeout", None));
    world.until_hung_up(number).await;

    let world = world.restart().await;
    assert_eq!(world.connections(), 0, "a restart of the node does not begin pairing");
    assert_eq!(world.state(&id).reason.code, "pairing_timeout");
    let asked = ask(&world, &id).await;
    show(&world, number, "2@y").await;
    assert_eq!(asked.await.unwrap().unwrap().qr, "2@y");
}

#[tokio::test(start_paused = true)]
async fn what_whatsapp_wants_nothing_of_is_left_alone_over_restarts() {
    let mut world = World::open().await;
    let banned = Refused::Banned { until: None, reason: "spam".to_owned() };
    for (name, refused, state, code) in [
        ("a", Refused::LoggedOut, LoggedOut, "logged_out"),
        ("b", Refused::Replaced, Paused, "replaced"),
        ("c", banned, Paused, "banned"),
        ("d", Refused::Outdated, Paused, "client_outdated"),
    ] {
        let (id, number) = world.connected(name).await;
        world.tell(number, LinkNews::Refused(refused)).await;
        assert_eq!(world.until(&id, state).await.reason.code, code);
        world.until_hung_up(number).await;
        assert_eq!(world.instances.get(&id).unwrap().account.is_some(), state == Paused);
        // Its queue is kept, and takes more.
        world.send(&id).await;
        assert_eq!(world.instances.depth(&id).unwrap().total(), 1);
        if state == Paused {
            let Err(Error::Linked(_)) = world.instances.code(&id).await else { panic!("{name}") };
        }
        world = world.restart().await;
        assert_eq!(world.connections(), 0, "{name}");
        assert_eq!(world.state(&id).reason.code, code);
    }
}

#[tokio::test(start_paused = true)]
async fn logging_out_tells_whatsapp_and_forgets_the_account() {
    let world = World::open().await;
    let (id, number) = world.connected("shop").await;
    let queued = world.send(&id).await;
    let (instances, name) = (world.instances.clone(), id.clone());
    let asked = tokio::spawn(async move { instances.logout(&name).await });
    // A client of its own connects to say so.
    world.until_connections(2).await;
    let Err(Error::NotConnected { reason, .. }) = world.instances.connect(id.clone()).await else { panic!() };
    assert_eq!(reason.code, "logging_out");
    world.tell(number, LinkNews::Connected(account())).await;
    let view = asked.await.unwrap().unwrap();
    assert_eq!((view.state.state, view.account), (LoggedOut, None));
    assert_eq!(*world.net.unlinked.lock().unwrap(), [number]);
    world.bench.view(queued);

    let asked = ask(&world, &id).await;
    show(&world, number, "2@again").await;
    assert_eq!(asked.await.unwrap().unwrap().qr, "2@again");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_instance_is_unlinked_also_when_whatsapp_cannot_be_reached() {
    let world = World::open().await;
    let (id, number) = world.connected("shop").await;
    world.instances.disconnect(id.clone()).await.unwrap();
    world.until_hung_up(number).await;
    assert_eq!(world.instances.get(&id).unwrap().account, Some(account()), "its session is kept");
    world.instances.delete(id.clone()).await.unwrap();
    world.until_connections(2).await;
    world.pass(21 * SECOND).await;
    super::world::eventually("the device to be unlinked", || *world.net.unlinked.lock().unwrap() == [number])
        .await;
    assert!(world.instances.get(&id).is_err());
}

#[tokio::test(start_paused = true)]
async fn only_a_connected_instance_marks_messages_as_read() {
    let world = World::open().await;
    let (id, number) = world.connected("shop").await;
    let read = || Read { message: "3EB0".parse().unwrap(), chat: None, sender: None };
    world.instances.mark_read(&id, read(), false).await.unwrap();
    assert_eq!(world.net.read.lock().unwrap().len(), 1);
    let lost = LinkNews::Disconnected { why: "reset".to_owned(), retry_in: 3 * SECOND };
    world.tell(number, lost).await;
    world.until(&id, Connecting).await;
    let refused = world.instances.mark_read(&id, read(), false).await;
    assert!(matches!(refused, Err(Error::NotConnected { .. })), "{refused:?}");
}
