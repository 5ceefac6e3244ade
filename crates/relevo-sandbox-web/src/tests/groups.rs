//! Groups: sender keys of devices and phones, and receipts of each member.

use relevo_linked_device::client::prelude::*;
use relevo_linked_device::client::types::presence::ReceiptType;

use super::{BOB, TestClient, start_with_linked_device};
use crate::Role;

#[tokio::test]
async fn group_message_reaches_members_and_each_sends_receipts() {
    let (web, alice, alices) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let carol = web.phone("15550000003");
    let bobs = TestClient::paired(&web, &bob).await;
    let group = web.create_group("friends", &alice, &[&bob, &carol]);
    let about = alices.bot.client().groups().get_metadata(&group).await.unwrap();
    assert_eq!((about.subject.as_str(), about.participants.len()), ("friends", 3));

    let id = alices.send_text(&group, "hello all").await;
    assert_eq!(alices.wait_for_ack(&id).await, None);
    assert_eq!(bobs.next_text().await.2, "hello all");
    let received = carol.watch().message().await;
    assert_eq!((received.text(), &received.chat), (Some("hello all"), &group));
    let mut readers = Vec::new();
    carol.mark_read(&[&received]).unwrap();
    alices
        .wait("a delivery from Bob and a reading from Carol", |event| {
            if let Event::Receipt(receipt) = event
                && receipt.message_ids.contains(&id)
            {
                assert_eq!(receipt.source.chat, group);
                readers.push((receipt.source.sender.to_non_ad(), receipt.r#type.clone()));
            }
            let bobs = readers.contains(&(bob.lid(), ReceiptType::Delivered));
            let carols = readers.contains(&(carol.lid(), ReceiptType::Read));
            (bobs && carols).then_some(())
        })
        .await;

    let sent_id = carol.send_text(&group, "hello from a phone").unwrap();
    for client in [&alices, &bobs] {
        let (id, sender, text) = client.next_text().await;
        assert_eq!((id, text.as_str()), (sent_id.clone(), "hello from a phone"));
        assert_eq!(sender.to_non_ad(), carol.lid());
    }
    // The second message uses the sender key that the devices have received.
    carol.send_text(&group, "again").unwrap();
    assert_eq!(alices.next_text().await.2, "again");
    bobs.send_text(&group, "me too").await;
    assert_eq!(alices.next_text().await.2, "me too");
}

#[tokio::test]
async fn non_member_is_refused_by_the_group() {
    let (web, _, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let group = web.create_group("others", &bob, &[]);
    assert!(client.bot.client().groups().get_metadata(&group).await.is_err());
    assert!(bob.send_text(&group, "to myself").is_ok());
}

#[tokio::test]
async fn group_members_are_added_and_removed() {
    let (web, alice, client) = start_with_linked_device().await;
    let bob = web.phone(BOB);
    let group = web.create_group("friends", &alice, &[]);
    let id = client.send_text(&group, "anybody?").await;
    assert_eq!(client.wait_for_ack(&id).await, None);
    assert!(web.add_group_member(&group, &bob, Role::Member));
    client.wait("news of Bob", |event| matches!(event, Event::GroupUpdate(_)).then_some(())).await;
    let id = client.send_text(&group, "welcome").await;
    assert_eq!(bob.watch().message().await.id, id);
    client.bot.client().groups().remove_participants(&group, &[bob.lid()]).await.unwrap();
    assert!(bob.send_text(&group, "too late").is_err());
    assert!(!web.remove_group_member(&group, &bob));
}
