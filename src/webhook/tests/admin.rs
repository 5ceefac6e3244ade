//! Administration of endpoints.

use super::fixture::*;
use crate::webhook::{
    EndpointConfig, EndpointScope, EndpointUpdate, Error, Events, Options, SECRET_MASK, delete_endpoints,
};
use relevo_domain::{ErrorKind, EventKind, Secret};
use relevo_store::{Key, Space};

#[tokio::test]
async fn replaced_primary_endpoint_keeps_its_backlog() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let (wrong, right) = (StubReceiver::with_status(500).await, StubReceiver::with_status(200).await);
    assert!(fixture.handle.primary(ONE).is_none());
    assert!(!fixture.handle.remove_primary(ONE).await.unwrap());
    let first = fixture.set_primary(config(&wrong.url)).await.unwrap();
    assert_eq!((first.secret, first.primary), (Some(SECRET_MASK), true));
    fixture.append(ONE, EventKind::Message, 1..=2).await;
    wrong.wait_until("a failure", |attempts| !attempts.is_empty()).await;

    let second = fixture.set_primary(config(&right.url)).await.unwrap();
    assert_eq!((second.id, second.created_at), (first.id, first.created_at));
    right.wait_until("the backlog", |attempts| attempts.len() >= 2).await;
    assert_eq!(right.numbers(), [1, 2]);
    assert_eq!(fixture.handle.list(None).len(), 1);
    assert!(fixture.handle.primary(two()).is_none());

    let fixture = fixture.restart().await;
    assert_eq!(fixture.handle.primary(ONE).unwrap().url, right.url);
    assert!(fixture.handle.remove_primary(ONE).await.unwrap());
    assert!(fixture.handle.primary(ONE).is_none());
    assert_eq!(fixture.handle.get(first.id).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn urls_and_secrets_are_validated_on_creation() {
    let fixture = WebhookFixture::with_options(fast_options(), false).await;
    for url in ["http://127.0.0.1:9/", "http://169.254.169.254/", "ftp://example.com/", "http://u:p@8.8.8.8/"]
    {
        let error = fixture.set_primary(config(&url.parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, Error::Url(_)), "{url}: {error}");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
    }
    let bad = EndpointConfig {
        secret: Some(Secret::new("whsec_***")),
        ..config(&"http://8.8.8.8/".parse().unwrap())
    };
    let error = fixture.create(EndpointScope::All, bad).await.unwrap_err();
    assert_eq!(error.invalid().unwrap().field, "secret");
    assert!(fixture.handle.list(None).is_empty());
}

#[tokio::test]
async fn disabled_endpoint_keeps_its_cursor() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    let id = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    let off = EndpointUpdate { enabled: Some(false), ..EndpointUpdate::default() };
    let view = fixture.handle.update(id, off).await.unwrap();
    assert_eq!(view.disabled.unwrap().reason, "requested");
    fixture.append(ONE, EventKind::Message, 1..=3).await;
    let fixture = fixture.restart().await;
    assert_eq!(fixture.handle.lag(id).await.unwrap().events, 3);
    assert_eq!(fixture.handle.totals().disabled, 1);
    assert!(receiver.attempts().is_empty());
    let on = EndpointUpdate {
        enabled: Some(true),
        events: Some(Events::parse(vec!["message".to_owned()]).unwrap()),
        ..EndpointUpdate::default()
    };
    fixture.handle.update(id, on).await.unwrap();
    receiver.wait_until("the backlog", |attempts| attempts.len() >= 3).await;
    assert_eq!(receiver.numbers(), [1, 2, 3]);
}

#[tokio::test]
async fn deleted_instance_deletes_its_endpoints_and_cursors() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver =
        StubReceiver::new(|attempt| ReceiverAction::Status(if attempt.n() % 2 == 0 { 422 } else { 200 }))
            .await;
    let own = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    let of_all = fixture.endpoint(EndpointScope::All, &receiver).await.id;
    let others = fixture.endpoint(EndpointScope::Instance(two()), &receiver).await.id;
    fixture.append(ONE, EventKind::Message, 1..=3).await;
    let both = |attempts: &[ReceivedRequest]| attempts.iter().filter(|attempt| attempt.n() == 3).count() == 2;
    receiver.wait_until("both endpoints are at the end", both).await;

    fixture.remove_instance(ONE);
    fixture.store.write(move |tx| delete_endpoints(tx, &[own])).await.unwrap();
    fixture.handle.forget_instance(ONE).await.unwrap();
    let mut left: Vec<_> = fixture.handle.list(None).iter().map(|view| view.id).collect();
    left.sort();
    let mut expected = vec![of_all, others];
    expected.sort();
    assert_eq!(left, expected);
    assert!(fixture.handle.get(own).is_err());
    eventually("the cursors and parked events are deleted", || {
        let count = |space| {
            let all = Key::new(space);
            let of_one = |key: &[u8]| key[17..21] == ONE.get().to_be_bytes();
            fixture
                .store
                .range(&all, &all.clone().after_prefix())
                .filter(|e| of_one(&e.as_ref().unwrap().0))
                .count()
        };
        (count(Space::EndpointCursor) + count(Space::Parked) == 0).then_some(())
    })
    .await;
    fixture.append(two(), EventKind::Message, 5..=5).await;
    receiver
        .wait_until("the other endpoints deliver", |attempts| {
            attempts.iter().filter(|a| a.n() == 5).count() == 2
        })
        .await;
}

#[tokio::test]
async fn orphans_of_a_deleted_endpoint_are_purged_at_startup() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    let kept = fixture.endpoint(EndpointScope::All, &receiver).await.id;
    let orphan = |space| Key::new(space).bytes(&[7; 16]).u32(1).u64(1);
    let plant = move |tx: &mut relevo_store::Tx| {
        tx.put(orphan(Space::EndpointCursor), vec![1])?;
        tx.put(orphan(Space::Parked), vec![1])
    };
    fixture.store.write(plant).await.unwrap();
    let fixture = fixture.restart().await;
    eventually("the orphans are gone", || {
        let gone = |space| fixture.store.get(&orphan(space)).unwrap().is_none();
        (gone(Space::EndpointCursor) && gone(Space::Parked)).then_some(())
    })
    .await;
    fixture.append(ONE, EventKind::Message, 1..=1).await;
    receiver.wait_until("the remaining endpoint delivers", |attempts| attempts.len() == 1).await;
    assert!(fixture.handle.get(kept).is_ok());
}

#[tokio::test]
async fn endpoints_are_limited_per_scope() {
    let fixture = WebhookFixture::new(Options { max_endpoints: 2, ..fast_options() }).await;
    let receiver = StubReceiver::with_status(200).await;
    for scope in
        [EndpointScope::All, EndpointScope::Instance(ONE), EndpointScope::All, EndpointScope::Instance(ONE)]
    {
        fixture.endpoint(scope, &receiver).await;
    }
    let error = fixture.create(EndpointScope::All, config(&receiver.url)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    fixture.endpoint(EndpointScope::Instance(two()), &receiver).await;
    assert_eq!(fixture.handle.list(Some(EndpointScope::All)).len(), 2);
}
