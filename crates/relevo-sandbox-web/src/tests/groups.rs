//! Groups: sender keys from devices and from phones, and receipts of each member.

use relevo_linked_device::client::prelude::*;
use relevo_linked_device::client::types::presence::ReceiptType;

use super::{BOB, Client, alone};
use crate::Role;

#[tokio::test]
async fn a_group_hears_its_members_and_each_of_them_acknowledges() {
    let (web, alice, alices) = alone().await;
    let bob = web.phone(BOB);
    let carol = web.phone("15550000003");
    let bobs = Client::paired(&web, &bob).await;
    let group = web.create_group("friends", &alice, &[&bob, &carol]);
    let about = alices.bot.client().groups().get_metadata(&group).await.unwrap();
    assert_eq!((about.subject.as_str(), about.participants.len()), ("friends", 3));

    let id = alices.say(&group, "hello all").await;
    assert_eq!(alices.acknowledged(&id).await, None);
    assert_eq!(bobs.text().await.2, "hello all");
    let received = carol.watch().message().await;
    assert_eq!((received.text(), &received.chat), (Some("hello all"), &group));
    let mut readers = Vec::new();
    carol.read(&[&received]).unwrap();
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

    let said = carol.say(&group, "hello from a phone").unwrap();
    for client in [&alices, &bobs] {
        let (id, sender, text) = client.text().await;
        assert_eq!((id, text.as_str()), (said.clone(), "hello from a phone"));
        assert_eq!(sender.to_non_ad(), carol.lid());
    }
    // The second goes out under the key that is known by now.
    carol.say(&group, "again").unwrap();
    assert_eq!(alices.text().await.2, "again");
    bobs.say(&group, "me too").await;
    assert_eq!(alices.text().await.2, "me too");
}

#[tokio::test]
async fn who_is_not_in_a_group_is_refused() {
    let (web, _, client) = alone().await;
    let bob = web.phone(BOB);
    let group = web.create_group("others", &bob, &[]);
    assert!(client.bot.client().groups().get_metadata(&group).await.is_err());
    assert!(bob.say(&group, "to myself").is_ok());
}

#[tokio::test]
async fn members_come_and_go() {
    let (web, alice, client) = alone().await;
    let bob = web.phone(BOB);
    let group = web.create_group("friends", &alice, &[]);
    let id = client.say(&group, "anybody?").await;
    assert_eq!(client.acknowledged(&id).await, None);
    assert!(web.admit(&group, &bob, Role::Member));
    client.wait("news of Bob", |event| matches!(event, Event::GroupUpdate(_)).then_some(())).await;
    let id = client.say(&group, "welcome").await;
    assert_eq!(bob.watch().message().await.id, id);
    client.bot.client().groups().remove_participants(&group, &[bob.lid()]).await.unwrap();
    assert!(bob.say(&group, "too late").is_err());
    assert!(!web.dismiss(&group, &bob));
}
