//! Endpoints as their owners handle them.

use super::fixture::*;
use crate::webhook::{EndpointConfig, EndpointScope, EndpointUpdate, Error, Events, Options, SECRET_MASK};
use relevo_domain::{ErrorKind, Secret};
use relevo_store::{Key, Space};

#[tokio::test]
async fn replaced_primary_endpoint_keeps_its_backlog() {
    let world = WebhookFixture::new(fast_options()).await;
    let (wrong, right) = (StubReceiver::with_status(500).await, StubReceiver::with_status(200).await);
    assert!(world.handle.primary(ONE).is_none());
    assert!(!world.handle.remove_primary(ONE).await.unwrap());
    let first = world.handle.set_primary(ONE, config(&wrong.url)).await.unwrap();
    assert_eq!((first.secret, first.primary), (Some(SECRET_MASK), true));
    world.append(ONE, "message", 1..=2).await;
    wrong.wait_until("a failure", |attempts| !attempts.is_empty()).await;

    let second = world.handle.set_primary(ONE, config(&right.url)).await.unwrap();
    assert_eq!((second.id, second.created_at), (first.id, first.created_at));
    right.wait_until("the backlog", |attempts| attempts.len() >= 2).await;
    assert_eq!(right.numbers(), [1, 2]);
    assert_eq!(world.handle.list(None).len(), 1);
    assert!(world.handle.primary(two()).is_none());

    let world = world.restart().await;
    assert_eq!(world.handle.primary(ONE).unwrap().url, right.url);
    assert!(world.handle.remove_primary(ONE).await.unwrap());
    assert!(world.handle.primary(ONE).is_none());
    assert_eq!(world.handle.get(first.id).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn urls_and_secrets_are_validated_on_creation() {
    let world = WebhookFixture::with_options(fast_options(), false).await;
    for url in ["http://127.0.0.1:9/", "http://169.254.169.254/", "ftp://example.com/", "http://u:p@8.8.8.8/"]
    {
        let error = world.handle.set_primary(ONE, config(&url.parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, Error::Url(_)), "{url}: {error}");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
    }
    let bad = EndpointConfig {
        secret: Some(Secret::new("whsec_***")),
        ..config(&"http://8.8.8.8/".parse().unwrap())
    };
    let error = world.handle.create(EndpointScope::All, bad).await.unwrap_err();
    assert_eq!(error.invalid().unwrap().field, "secret");
    assert!(world.handle.list(None).is_empty());
}

#[tokio::test]
async fn disabled_endpoint_keeps_its_cursor() {
    let world = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    let id = world.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    let off = EndpointUpdate { enabled: Some(false), ..EndpointUpdate::default() };
    let view = world.handle.update(id, off).await.unwrap();
    assert_eq!(view.disabled.unwrap().reason, "requested");
    world.append(ONE, "message", 1..=3).await;
    let world = world.restart().await;
    assert_eq!(world.handle.lag(id).await.unwrap().events, 3);
    assert_eq!(world.handle.totals().disabled, 1);
    assert!(receiver.attempts().is_empty());
    let on = EndpointUpdate {
        enabled: Some(true),
        events: Some(Events::parse(vec!["message".to_owned()]).unwrap()),
        ..EndpointUpdate::default()
    };
    world.handle.update(id, on).await.unwrap();
    receiver.wait_until("what it missed", |attempts| attempts.len() >= 3).await;
    assert_eq!(receiver.numbers(), [1, 2, 3]);
}

#[tokio::test]
async fn deleted_instance_deletes_its_endpoints_and_cursors() {
    let world = WebhookFixture::new(fast_options()).await;
    let receiver =
        StubReceiver::new(|attempt| ReceiverAction::Status(if attempt.n() % 2 == 0 { 404 } else { 200 }))
            .await;
    let own = world.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    let of_all = world.endpoint(EndpointScope::All, &receiver).await.id;
    let others = world.endpoint(EndpointScope::Instance(two()), &receiver).await.id;
    world.append(ONE, "message", 1..=3).await;
    let both = |attempts: &[ReceivedRequest]| attempts.iter().filter(|attempt| attempt.n() == 3).count() == 2;
    receiver.wait_until("both got there", both).await;

    world.remove_instance(ONE);
    world.handle.delete_instance(ONE).await.unwrap();
    let mut left: Vec<_> = world.handle.list(None).iter().map(|view| view.id).collect();
    left.sort();
    let mut expected = vec![of_all, others];
    expected.sort();
    assert_eq!(left, expected);
    assert!(world.handle.get(own).is_err());
    eventually("nothing is left of it", || {
        let count = |space| {
            let all = Key::new(space);
            let of_one = |key: &[u8]| key[17..21] == ONE.get().to_be_bytes();
            world
                .store
                .range(&all, &all.clone().after_prefix())
                .filter(|e| of_one(&e.as_ref().unwrap().0))
                .count()
        };
        (count(Space::EndpointCursor) + count(Space::Parked) == 0).then_some(())
    })
    .await;
    world.append(two(), "message", 5..=5).await;
    receiver.wait_until("life goes on", |attempts| attempts.iter().filter(|a| a.n() == 5).count() == 2).await;
}

#[tokio::test]
async fn orphans_of_a_deleted_endpoint_are_purged_at_startup() {
    let world = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    let kept = world.endpoint(EndpointScope::All, &receiver).await.id;
    let orphan = |space| Key::new(space).bytes(&[7; 16]).u32(1).u64(1);
    let plant = move |tx: &mut relevo_store::Tx| {
        tx.put(orphan(Space::EndpointCursor), vec![1])?;
        tx.put(orphan(Space::Parked), vec![1])
    };
    world.store.write(plant).await.unwrap();
    let world = world.restart().await;
    eventually("the orphans are gone", || {
        let gone = |space| world.store.get(&orphan(space)).unwrap().is_none();
        (gone(Space::EndpointCursor) && gone(Space::Parked)).then_some(())
    })
    .await;
    world.append(ONE, "message", 1..=1).await;
    receiver.wait_until("the other lives", |attempts| attempts.len() == 1).await;
    assert!(world.handle.get(kept).is_ok());
}

#[tokio::test]
async fn endpoints_are_limited_per_scope() {
    let world = WebhookFixture::new(Options { max_endpoints: 2, ..fast_options() }).await;
    let receiver = StubReceiver::with_status(200).await;
    for scope in
        [EndpointScope::All, EndpointScope::Instance(ONE), EndpointScope::All, EndpointScope::Instance(ONE)]
    {
        world.endpoint(scope, &receiver).await;
    }
    let error = world.handle.create(EndpointScope::All, config(&receiver.url)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    world.endpoint(EndpointScope::Instance(two()), &receiver).await;
    assert_eq!(world.handle.list(Some(EndpointScope::All)).len(), 2);
}
