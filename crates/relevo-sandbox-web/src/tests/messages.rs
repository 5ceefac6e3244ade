//! Messages between accounts.

use relevo_linked_device::client::prelude::*;
use relevo_linked_device::client::types::presence::ReceiptType;

use super::{ALICE, BOB, TestClient, start_with_linked_device};
use crate::PhoneEvent;

#[tokio::test]
async fn phone_decrypts_messages_of_another_account_and_replies() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    for n in 0..3 {
        let id = client.send_text(&bob.jid(), &format!("hello {n}")).await;
        assert_eq!(client.wait_for_ack(&id).await, None);
        let received = bobs.message().await;
        assert_eq!((received.id.as_str(), received.text()), (id.as_str(), Some(&*format!("hello {n}"))));
        client
            .wait("a delivery", |event| match event {
                Event::Receipt(receipt) if receipt.message_ids.contains(&id) => {
                    (receipt.r#type == ReceiptType::Delivered).then_some(())
                }
                _ => None,
            })
            .await;
        let sent_id = bob.send_text(&received.sender.to_non_ad(), &format!("yes {n}")).unwrap();
        let (id, sender, text) = client.next_text().await;
        assert_eq!((id, text), (sent_id, format!("yes {n}")));
        assert_eq!(sender.to_non_ad().user, bob_user_in_mode(&bob, &sender));
    }
    // A phone receives the messages that its linked device sends.
    let own: Vec<_> = alice.events();
    assert_eq!(own.iter().filter(|seen| matches!(&***seen, PhoneEvent::Message(m) if m.from_me)).count(), 3);
    assert_eq!(web.journal().iter().filter(|entry| entry.from.starts_with("15550000001:1@")).count(), 3);
}

/// Bob's address for Alice: his number or his LID.
fn bob_user_in_mode(bob: &crate::Phone, sender: &Jid) -> String {
    if sender.is_lid() { bob.lid().user.to_string() } else { bob.jid().user.to_string() }
}

#[tokio::test]
async fn devices_of_two_accounts_exchange_messages_and_read_receipts() {
    let (web, _, alice) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let bobs = TestClient::paired(&web, &bob).await;
    let id = alice.send_text(&bob.jid(), "one").await;
    let (got, sender, text) = bobs.next_text().await;
    assert_eq!((&got, text.as_str()), (&id, "one"));
    bobs.bot.client().mark_as_read(&sender.to_non_ad(), None, &[&got]).await.unwrap();
    alice
        .wait("the reading", |event| match event {
            Event::Receipt(receipt) if receipt.message_ids.contains(&id) => {
                (receipt.r#type == ReceiptType::Read).then_some(())
            }
            _ => None,
        })
        .await;
    let id = bobs.send_text(&web.phone(ALICE).jid(), "two").await;
    let (got, _, text) = alice.next_text().await;
    assert_eq!((got, text.as_str()), (id, "two"));
    web.wait_until(|web| web.queue_len(&bob, 1) == 0 && web.queue_len(&web.phone(ALICE), 1) == 0).await;
}

#[tokio::test]
async fn messages_are_queued_while_a_device_is_offline() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    // Establishes a session.
    bob.send_text(&alice.jid(), "before").unwrap();
    client.next_text().await;
    web.wait_until(|web| web.queue_len(&alice, 1) == 0).await;
    web.restart(std::time::Duration::from_millis(200));
    for n in 0..5 {
        bob.send_text(&alice.jid(), &format!("meanwhile {n}")).unwrap();
    }
    for n in 0..5 {
        assert_eq!(client.next_text().await.2, format!("meanwhile {n}"));
    }
    web.wait_until(|web| web.queue_len(&alice, 1) == 0).await;
}

#[tokio::test]
async fn phone_sends_read_receipts_reactions_edits_revocations_and_typing() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    let id = client.send_text(&bob.jid(), "look").await;
    let received = bobs.message().await;
    bob.mark_read(&[&received]).unwrap();
    client
        .wait("the reading", |event| match event {
            Event::Receipt(receipt) if receipt.message_ids.contains(&id) => {
                (receipt.r#type == ReceiptType::Read).then_some(())
            }
            _ => None,
        })
        .await;
    bob.react(&received, "👍").unwrap();
    let reaction = client.wait("a reaction", |event| {
        event.messages().find_map(|message| {
            let reaction = message.message.reaction_message.as_option()?;
            Some((reaction.text.clone(), reaction.key.as_option()?.id.clone()))
        })
    });
    assert_eq!(reaction.await, (Some("👍".into()), Some(id)));
    let sent_id = bob.send_text(&alice.jid(), "frist").unwrap();
    assert_eq!(client.next_text().await.2, "frist");
    bob.edit(&alice.jid(), &sent_id, "first").unwrap();
    let edited = client.wait("an edit", |event| {
        event.messages().find_map(|message| {
            let protocol = message.message.protocol_message.as_option()?;
            protocol.edited_message.as_option()?.conversation.clone()
        })
    });
    assert_eq!(edited.await, "first");
    bob.revoke(&alice.jid(), &sent_id).unwrap();
    let revoked = client.wait("a revocation", |event| {
        event
            .messages()
            .find_map(|message| message.message.protocol_message.as_option()?.key.as_option()?.id.clone())
    });
    assert_eq!(revoked.await, sent_id);
    bob.send_typing(&alice.jid(), true).unwrap();
    client.wait("typing", |event| matches!(event, Event::ChatPresence(_)).then_some(())).await;
    client.bot.client().chatstate().send_composing(&bob.jid()).await.unwrap();
    loop {
        if matches!(&*bobs.next().await, PhoneEvent::Typing { state, .. } if state == "composing") {
            break;
        }
    }
}

#[tokio::test]
async fn images_are_sent_in_both_directions() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    let image: Vec<u8> = (0..50_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    bob.send_image(&alice.jid(), &image, "from Bob").unwrap();
    let got = client.wait("an image", |event| {
        event.messages().find_map(|message| message.message.image_message.as_option().cloned())
    });
    let got = got.await;
    assert_eq!(got.caption.as_deref(), Some("from Bob"));
    assert_eq!(client.bot.client().download(&got).await.unwrap(), image);
    // For a file above 5 MiB, a client queries the uploaded size first.
    let large = vec![7; 6 << 20];
    let kind = relevo_linked_device::client::download::MediaType::Image;
    let uploaded = client.bot.client().upload(large.clone(), kind, Default::default()).await.unwrap();
    let message = relevo_linked_device::client::media::image_message(uploaded, Default::default());
    client.bot.client().send_message(&bob.jid(), message).await.unwrap();
    let received = bobs.message().await;
    let image = received.message.image_message.as_option().unwrap();
    assert_eq!(bob.download_media(image).unwrap(), large);
}

#[tokio::test]
async fn message_to_newsletter_or_unknown_user_is_acknowledged() {
    let (web, _, client) = start_with_linked_device().await;
    let channel = Jid::newsletter("120363000000000009");
    let id = client.send_text(&channel, "news").await;
    assert_eq!(client.wait_for_ack(&id).await, None);
    assert_eq!(web.journal_entry(&id).unwrap().delivered, 0);
    let users = [Jid::pn("19999999999"), web.phone(BOB).jid()];
    let known = client.bot.client().contacts().is_on_whatsapp(&users).await.unwrap();
    let known: Vec<bool> = known.iter().map(|known| known.is_registered).collect();
    assert_eq!(known, [false, true]);
}

#[tokio::test]
async fn two_devices_of_an_account_receive_the_same_messages() {
    let (web, alice, first) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    // Bob's first message is encrypted for one device; his next ones for both.
    first.send_text(&bob.jid(), "from the first").await;
    let mut bobs = bob.watch();
    bobs.message().await;
    let second = TestClient::paired(&web, &alice).await;
    assert_eq!(alice.devices(), [1, 2]);
    bob.send_text(&alice.jid(), "to both").unwrap();
    assert_eq!(first.next_text().await.2, "to both");
    assert_eq!(second.next_text().await.2, "to both");
    let id = second.send_text(&bob.jid(), "from the second").await;
    let (got, sender, _) = first.next_text().await;
    assert_eq!((got, sender.device), (id, 2));
    // A chat that the first device pins is pinned on the second too.
    first.bot.client().chat_actions().pin_chat(&bob.lid()).await.unwrap();
    let pinned = second.wait("the pin", |event| match event {
        Event::PinUpdate(pin) => Some(pin.jid.clone()),
        _ => None,
    });
    assert_eq!(pinned.await, bob.lid());
}
