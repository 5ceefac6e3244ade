//! What people say to each other.

use relevo_linked_device::client::prelude::*;
use relevo_linked_device::client::types::presence::ReceiptType;

use super::{ALICE, BOB, Client, alone};
use crate::Seen;

#[tokio::test]
async fn a_phone_opens_what_a_device_of_another_account_sends_and_answers() {
    let (web, alice, client) = alone().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    for n in 0..3 {
        let id = client.say(&bob.jid(), &format!("hello {n}")).await;
        assert_eq!(client.acknowledged(&id).await, None);
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
        let said = bob.say(&received.sender.to_non_ad(), &format!("yes {n}")).unwrap();
        let (id, sender, text) = client.text().await;
        assert_eq!((id, text), (said, format!("yes {n}")));
        assert_eq!(sender.to_non_ad().user, alice_calls(&bob, &sender));
    }
    // What a linked device sends, its own phone sees too.
    let own: Vec<_> = alice.seen();
    assert_eq!(own.iter().filter(|seen| matches!(&***seen, Seen::Message(m) if m.from_me)).count(), 3);
    assert_eq!(web.journal().iter().filter(|entry| entry.from.starts_with("15550000001:1@")).count(), 3);
}

/// How Bob is called towards Alice: by his number or by his LID.
fn alice_calls(bob: &crate::Phone, sender: &Jid) -> String {
    if sender.is_lid() { bob.lid().user.to_string() } else { bob.jid().user.to_string() }
}

#[tokio::test]
async fn devices_of_two_accounts_talk_and_read() {
    let (web, _, alice) = alone().await;
    let bob = web.phone(BOB);
    let bobs = Client::paired(&web, &bob).await;
    let id = alice.say(&bob.jid(), "one").await;
    let (got, sender, text) = bobs.text().await;
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
    let id = bobs.say(&web.phone(ALICE).jid(), "two").await;
    let (got, _, text) = alice.text().await;
    assert_eq!((got, text.as_str()), (id, "two"));
    web.until(|web| web.waiting(&bob, 1) == 0 && web.waiting(&web.phone(ALICE), 1) == 0).await;
}

#[tokio::test]
async fn what_comes_while_a_device_is_away_waits_for_it() {
    let (web, alice, client) = alone().await;
    let bob = web.phone(BOB);
    // So that there is a session.
    bob.say(&alice.jid(), "before").unwrap();
    client.text().await;
    web.until(|web| web.waiting(&alice, 1) == 0).await;
    web.restart(std::time::Duration::from_millis(200));
    for n in 0..5 {
        bob.say(&alice.jid(), &format!("meanwhile {n}")).unwrap();
    }
    for n in 0..5 {
        assert_eq!(client.text().await.2, format!("meanwhile {n}"));
    }
    web.until(|web| web.waiting(&alice, 1) == 0).await;
}

#[tokio::test]
async fn a_phone_reads_reacts_edits_revokes_and_types() {
    let (web, alice, client) = alone().await;
    let bob = web.phone(BOB);
    let mut bobs = bob.watch();
    let id = client.say(&bob.jid(), "look").await;
    let received = bobs.message().await;
    bob.read(&[&received]).unwrap();
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
    let said = bob.say(&alice.jid(), "frist").unwrap();
    assert_eq!(client.text().await.2, "frist");
    bob.edit(&alice.jid(), &said, "first").unwrap();
    let edited = client.wait("an edit", |event| {
        event.messages().find_map(|message| {
            let protocol = message.message.protocol_message.as_option()?;
            protocol.edited_message.as_option()?.conversation.clone()
        })
    });
    assert_eq!(edited.await, "first");
    bob.revoke(&alice.jid(), &said).unwrap();
    let revoked = client.wait("a revocation", |event| {
        event
            .messages()
            .find_map(|message| message.message.protocol_message.as_option()?.key.as_option()?.id.clone())
    });
    assert_eq!(revoked.await, said);
    bob.show_typing(&alice.jid(), true).unwrap();
    client.wait("typing", |event| matches!(event, Event::ChatPresence(_)).then_some(())).await;
    client.bot.client().chatstate().send_composing(&bob.jid()).await.unwrap();
    loop {
        if matches!(&*bobs.next().await, Seen::Typing { state, .. } if state == "composing") {
            break;
        }
    }
}

#[tokio::test]
async fn images_go_both_ways() {
    let (web, alice, client) = alone().await;
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
    // Beyond 5 MiB a client asks first how much of the file is there.
    let large = vec![7; 6 << 20];
    let kind = relevo_linked_device::client::download::MediaType::Image;
    let uploaded = client.bot.client().upload(large.clone(), kind, Default::default()).await.unwrap();
    let message = relevo_linked_device::client::media::image_message(uploaded, Default::default());
    client.bot.client().send_message(&bob.jid(), message).await.unwrap();
    let received = bobs.message().await;
    let image = received.message.image_message.as_option().unwrap();
    assert_eq!(bob.open_media(image).unwrap(), large);
}

#[tokio::test]
async fn a_message_to_a_newsletter_or_to_nobody_is_answered() {
    let (web, _, client) = alone().await;
    let channel = Jid::newsletter("120363000000000009");
    let id = client.say(&channel, "news").await;
    assert_eq!(client.acknowledged(&id).await, None);
    assert_eq!(web.entry(&id).unwrap().delivered, 0);
    let nobody = [Jid::pn("19999999999"), web.phone(BOB).jid()];
    let known = client.bot.client().contacts().is_on_whatsapp(&nobody).await.unwrap();
    let known: Vec<bool> = known.iter().map(|known| known.is_registered).collect();
    assert_eq!(known, [false, true]);
}

#[tokio::test]
async fn two_devices_of_an_account_see_the_same() {
    let (web, alice, first) = alone().await;
    let bob = web.phone(BOB);
    // Bob's first words are sealed for one device; his next ones for both.
    first.say(&bob.jid(), "from the first").await;
    let mut bobs = bob.watch();
    bobs.message().await;
    let second = Client::paired(&web, &alice).await;
    assert_eq!(alice.devices(), [1, 2]);
    bob.say(&alice.jid(), "to both").unwrap();
    assert_eq!(first.text().await.2, "to both");
    assert_eq!(second.text().await.2, "to both");
    let id = second.say(&bob.jid(), "from the second").await;
    let (got, sender, _) = first.text().await;
    assert_eq!((got, sender.device), (id, 2));
    // What the first device pins, the second pins too.
    first.bot.client().chat_actions().pin_chat(&bob.lid()).await.unwrap();
    let pinned = second.wait("the pin", |event| match event {
        Event::PinUpdate(pin) => Some(pin.jid.clone()),
        _ => None,
    });
    assert_eq!(pinned.await, bob.lid());
}
