//! What goes wrong on purpose.

use std::time::{Duration, Instant};

use relevo_linked_device::client::prelude::Event;

use super::{ALICE, BOB, Client, alone};
use crate::{Ejection, Fault, Rule};

#[tokio::test]
async fn a_repeated_id_is_acknowledged_again_and_delivered_once() {
    let (web, _, client) = alone().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    for _ in 0..2 {
        client.say_as(&bob.jid(), "3EB0REPEATED", "once").await;
        assert_eq!(client.acknowledged("3EB0REPEATED").await, None);
    }
    let id = client.say(&bob.jid(), "then").await;
    assert_eq!(bobs.message().await.id, "3EB0REPEATED");
    assert_eq!(bobs.message().await.id, id);
    let entry = web.entry("3EB0REPEATED").unwrap();
    assert_eq!((entry.received, entry.delivered), (2, 2), "Bob's phone and Alice's own");
}

#[tokio::test]
async fn a_message_is_refused_with_the_code_that_a_fault_gives() {
    let (web, _, client) = alone().await;
    let bob = web.phone(BOB);
    web.arm(Rule::once(ALICE, Fault::Nack { code: 463 })).unwrap();
    client.say_as(&bob.jid(), "3EB0REFUSED", "no").await;
    assert_eq!(client.acknowledged("3EB0REFUSED").await.as_deref(), Some("463"));
    assert_eq!(web.entry("3EB0REFUSED").unwrap().refused, Some(463));
    client.say_as(&bob.jid(), "3EB0REFUSED", "yes").await;
    assert_eq!(client.acknowledged("3EB0REFUSED").await, None);
    assert_eq!(bob.watch().message().await.text(), Some("yes"));
}

#[tokio::test]
async fn a_connection_is_cut_before_and_after_acceptance() {
    let (web, _, client) = alone().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    for (fault, accepted) in [(Fault::CutBefore, 0), (Fault::CutUnacked, 1)] {
        let id = format!("3EB0CUT{accepted}");
        web.arm(Rule::once(ALICE, fault)).unwrap();
        client.say_as(&bob.jid(), &id, "try").await;
        client.connected().await;
        assert_eq!(web.entry(&id).map_or(0, |entry| entry.received), accepted);
        // Whoever cannot know tries again under the same id.
        client.say_as(&bob.jid(), &id, "try").await;
        assert_eq!(client.acknowledged(&id).await, None);
        assert_eq!(bobs.message().await.id, id);
    }
    web.arm(Rule::once(ALICE, Fault::CutAfter)).unwrap();
    let id = client.say(&bob.jid(), "last").await;
    assert_eq!(client.acknowledged(&id).await, None);
    client.connected().await;
    assert_eq!(bobs.message().await.id, id);
}

#[tokio::test]
async fn an_acknowledgement_comes_late_or_never() {
    let (web, _, client) = alone().await;
    let bob = web.phone(BOB);
    web.arm(Rule::once(ALICE, Fault::DelayAck { ms: 300 })).unwrap();
    let begun = Instant::now();
    let id = client.say(&bob.jid(), "late").await;
    assert_eq!(client.acknowledged(&id).await, None);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    web.arm(Rule::once(ALICE, Fault::LoseAck)).unwrap();
    let lost = client.say(&bob.jid(), "never").await;
    let next = client.say(&bob.jid(), "next").await;
    let first = client.wait("an acknowledgement", |event| match event {
        Event::ServerAck(ack) if ack.class.as_deref() == Some("message") => Some(ack.id.clone()),
        _ => None,
    });
    assert_eq!(first.await, next);
    assert_eq!(web.entry(&lost).unwrap().received, 1);
}

#[tokio::test]
async fn a_mute_server_hears_and_says_nothing() {
    let (web, alice, client) = alone().await;
    let bob = web.phone(BOB);
    let mute = web.arm(Rule::once(ALICE, Fault::Mute)).unwrap();
    client.say_as(&bob.jid(), "3EB0MUTE", "unheard").await;
    web.until(|web| web.struck(mute) == 1).await;
    bob.say(&alice.jid(), "unseen").unwrap();
    assert!(web.waiting(&alice, 1) > 0);
    assert!(web.entry("3EB0MUTE").is_none());
    assert!(web.is_online(&alice, 1), "its socket is open");
    assert_eq!(web.mute(&alice, None, false), 1);
    assert_eq!(client.text().await.2, "unseen");
}

#[tokio::test]
async fn messages_are_delivered_twice_or_out_of_order() {
    let (web, alice, client) = alone().await;
    let bob = web.phone(BOB);
    bob.say(&alice.jid(), "begin").unwrap();
    client.text().await;
    web.arm(Rule::once(ALICE, Fault::DeliverLate)).unwrap();
    bob.say(&alice.jid(), "one").unwrap();
    bob.say(&alice.jid(), "two").unwrap();
    assert_eq!(client.text().await.2, "two");
    assert_eq!(client.text().await.2, "one");
    web.arm(Rule::once(ALICE, Fault::DeliverTwice)).unwrap();
    bob.say(&alice.jid(), "twice").unwrap();
    assert_eq!(client.text().await.2, "twice");
    // A client knows a ciphertext that it has opened, and acknowledges it again.
    web.until(|web| web.waiting(&alice, 1) == 0).await;
}

#[tokio::test]
async fn a_login_is_broken_off_or_never_answered() {
    let (web, alice, client) = alone().await;
    web.arm(Rule::once(ALICE, Fault::BreakLogin { code: 515 })).unwrap();
    web.eject(&alice, None, Ejection::Cut);
    client.connected().await;
    let opened = web.connections().len();
    web.arm(Rule::always(ALICE, Fault::IgnoreLogin)).unwrap();
    web.eject(&alice, None, Ejection::Cut);
    web.until(|web| web.connections().len() > opened && web.online() == 0).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_opened_is_asked_for_again() {
    let (web, alice, client) = alone().await;
    let bob = web.phone(BOB);
    let bobs = Client::paired(&web, &bob).await;
    for round in ["opening", "established"] {
        web.arm(Rule::once(ALICE, Fault::DeliverGarbled)).unwrap();
        let id = bob.say(&alice.jid(), round).unwrap();
        let (got, _, text) = client.text().await;
        assert_eq!((got, text.as_str()), (id, round), "from a phone");
        web.arm(Rule::once(BOB, Fault::DeliverGarbled)).unwrap();
        let id = client.say(&bob.jid(), round).await;
        // The first text that Bob's device opens may be its own phone's.
        while bobs.text().await.0 != id {}
    }
    web.until(|web| web.waiting(&alice, 1) == 0 && web.waiting(&bob, 1) == 0).await;
}

#[tokio::test]
async fn a_frame_that_makes_no_sense_ends_its_connection_alone() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    let (web, _, client) = alone().await;
    let address = web.url().socket_addrs(|| None).unwrap();
    let garbage: [&[u8]; 4] =
        [b"GET / HTTP", b"WA\x06\x03\x00\x00\x02hi", b"WA\x06\x03\xff\xff\xff", b"ED\0\x01\xff\xff\xff"];
    for bytes in garbage {
        let stream = tokio::net::TcpStream::connect(&*address).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(web.url().as_str(), stream).await.unwrap();
        socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
        while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
    }
    let id = client.say(&web.phone(BOB).jid(), "still here").await;
    assert_eq!(client.acknowledged(&id).await, None);
}
