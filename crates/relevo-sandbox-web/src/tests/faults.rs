//! Scripted faults.

use std::time::Duration;

use relevo_linked_device::client::prelude::Event;
use tokio::time::Instant;

use super::{ALICE, BOB, TestClient, start_with_linked_device};
use crate::{Disconnection, Fault, FaultRule};

#[tokio::test]
async fn repeated_message_id_is_acknowledged_again_and_delivered_once() {
    let (web, _, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    for _ in 0..2 {
        client.send_text_with_id(&bob.jid(), "3EB0REPEATED", "once").await;
        assert_eq!(client.wait_for_ack("3EB0REPEATED").await, None);
    }
    let id = client.send_text(&bob.jid(), "then").await;
    assert_eq!(bobs.message().await.id, "3EB0REPEATED");
    assert_eq!(bobs.message().await.id, id);
    let entry = web.journal_entry("3EB0REPEATED").unwrap();
    assert_eq!((entry.received, entry.delivered), (2, 2), "Bob's phone and Alice's own");
}

#[tokio::test]
async fn nack_fault_refuses_message_with_its_code() {
    let (web, _, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    web.arm(FaultRule::once(ALICE, Fault::Nack { code: 463 })).unwrap();
    client.send_text_with_id(&bob.jid(), "3EB0REFUSED", "no").await;
    assert_eq!(client.wait_for_ack("3EB0REFUSED").await.as_deref(), Some("463"));
    assert_eq!(web.journal_entry("3EB0REFUSED").unwrap().refused, Some(463));
    client.send_text_with_id(&bob.jid(), "3EB0REFUSED", "yes").await;
    assert_eq!(client.wait_for_ack("3EB0REFUSED").await, None);
    assert_eq!(bob.watch().message().await.text(), Some("yes"));
}

#[tokio::test]
async fn cut_faults_close_the_connection_before_or_after_acceptance() {
    let (web, _, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    for (fault, accepted) in [(Fault::CutBefore, 0), (Fault::CutUnacked, 1)] {
        let id = format!("3EB0CUT{accepted}");
        web.arm(FaultRule::once(ALICE, fault)).unwrap();
        client.send_text_with_id(&bob.jid(), &id, "try").await;
        client.wait_connected().await;
        assert_eq!(web.journal_entry(&id).map_or(0, |entry| entry.received), accepted);
        // A sender without an acknowledgement retries under the same id.
        client.send_text_with_id(&bob.jid(), &id, "try").await;
        assert_eq!(client.wait_for_ack(&id).await, None);
        assert_eq!(bobs.message().await.id, id);
    }
    web.arm(FaultRule::once(ALICE, Fault::CutAfter)).unwrap();
    let id = client.send_text(&bob.jid(), "last").await;
    assert_eq!(client.wait_for_ack(&id).await, None);
    client.wait_connected().await;
    assert_eq!(bobs.message().await.id, id);
}

#[tokio::test]
async fn ack_faults_delay_or_drop_the_acknowledgement() {
    let (web, _, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    web.arm(FaultRule::once(ALICE, Fault::DelayAck { ms: 300 })).unwrap();
    let begun = Instant::now();
    let id = client.send_text(&bob.jid(), "late").await;
    assert_eq!(client.wait_for_ack(&id).await, None);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    web.arm(FaultRule::once(ALICE, Fault::LoseAck)).unwrap();
    let lost = client.send_text(&bob.jid(), "never").await;
    let next = client.send_text(&bob.jid(), "next").await;
    let first = client.wait("an acknowledgement", |event| match event {
        Event::ServerAck(ack) if ack.class.as_deref() == Some("message") => Some(ack.id.clone()),
        _ => None,
    });
    assert_eq!(first.await, next);
    assert_eq!(web.journal_entry(&lost).unwrap().received, 1);
}

#[tokio::test]
async fn mute_fault_stops_reading_and_answering() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let mute = web.arm(FaultRule::once(ALICE, Fault::Mute)).unwrap();
    client.send_text_with_id(&bob.jid(), "3EB0MUTE", "unheard").await;
    web.wait_until(|web| web.trigger_count(mute) == 1).await;
    bob.send_text(&alice.jid(), "unseen").unwrap();
    assert!(web.queue_len(&alice, 1) > 0);
    assert!(web.journal_entry("3EB0MUTE").is_none());
    assert!(web.is_online(&alice, 1), "its socket is open");
    assert_eq!(web.mute(&alice, None, false), 1);
    assert_eq!(client.next_text().await.2, "unseen");
}

#[tokio::test]
async fn delivery_faults_repeat_or_reorder_messages() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    bob.send_text(&alice.jid(), "begin").unwrap();
    client.next_text().await;
    web.arm(FaultRule::once(ALICE, Fault::DeliverLate)).unwrap();
    bob.send_text(&alice.jid(), "one").unwrap();
    bob.send_text(&alice.jid(), "two").unwrap();
    assert_eq!(client.next_text().await.2, "two");
    assert_eq!(client.next_text().await.2, "one");
    web.arm(FaultRule::once(ALICE, Fault::DeliverTwice)).unwrap();
    bob.send_text(&alice.jid(), "twice").unwrap();
    assert_eq!(client.next_text().await.2, "twice");
    // A client recognises a ciphertext that it has decrypted, and acknowledges it again.
    web.wait_until(|web| web.queue_len(&alice, 1) == 0).await;
}

#[tokio::test]
async fn login_faults_break_or_ignore_the_login() {
    let (web, alice, client) = start_with_linked_device().await;
    web.arm(FaultRule::once(ALICE, Fault::BreakLogin { code: 515 })).unwrap();
    web.disconnect(&alice, None, Disconnection::Cut);
    client.wait_connected().await;
    let opened = web.connection_records().len();
    web.arm(FaultRule::always(ALICE, Fault::IgnoreLogin)).unwrap();
    web.disconnect(&alice, None, Disconnection::Cut);
    web.wait_until(|web| web.connection_records().len() > opened && web.online_count() == 0).await;
}

#[tokio::test]
async fn undecryptable_message_is_requested_again() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let bobs = TestClient::paired(&web, &bob).await;
    for round in ["opening", "established"] {
        web.arm(FaultRule::once(ALICE, Fault::DeliverGarbled)).unwrap();
        let id = bob.send_text(&alice.jid(), round).unwrap();
        let (got, _, text) = client.next_text().await;
        assert_eq!((got, text.as_str()), (id, round), "from a phone");
        web.arm(FaultRule::once(BOB, Fault::DeliverGarbled)).unwrap();
        let id = client.send_text(&bob.jid(), round).await;
        // The first text that Bob's device decrypts may be from its own phone.
        while bobs.next_text().await.0 != id {}
    }
    web.wait_until(|web| web.queue_len(&alice, 1) == 0 && web.queue_len(&bob, 1) == 0).await;
}

#[tokio::test]
async fn malformed_frame_closes_only_its_connection() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    let (web, _, client) = start_with_linked_device().await;
    let address = web.url().socket_addrs(|| None).unwrap();
    let garbage: [&[u8]; 4] =
        [b"GET / HTTP", b"WA\x06\x03\x00\x00\x02hi", b"WA\x06\x03\xff\xff\xff", b"ED\0\x01\xff\xff\xff"];
    for bytes in garbage {
        let stream = tokio::net::TcpStream::connect(&*address).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(web.url().as_str(), stream).await.unwrap();
        socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
        while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
    }
    let id = client.send_text(&web.phone(BOB).jid(), "still here").await;
    assert_eq!(client.wait_for_ack(&id).await, None);
}
