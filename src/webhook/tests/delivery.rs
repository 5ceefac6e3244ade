//! Deliveries to working receivers.

use serde_json::json;

use super::fixture::*;
use crate::events;
use crate::webhook::signature::Signer;
use crate::webhook::{EndpointConfig, EndpointScope, EndpointUpdate, Events, ReplayFrom};
use relevo_domain::{EventKind, Secret};

#[tokio::test]
async fn events_arrive_in_order_signed_and_identified() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    fixture.append(ONE, EventKind::Message, 1..=3).await;
    let endpoint = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await;
    fixture.append(ONE, EventKind::MessageAck, 4..=40).await;
    fixture.append(two(), EventKind::MessageAck, 100..=101).await;
    let attempts = receiver.wait_until("37 events", |attempts| attempts.len() >= 37).await;

    assert_eq!(
        receiver.numbers(),
        (4..=40).collect::<Vec<_>>(),
        "only new events of this instance, in order"
    );
    let signer = Signer::new(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
    for (attempt, sequence) in attempts.iter().zip(4..) {
        let id = format!("evt_{}_1_{sequence}", endpoint.id.to_string().trim_start_matches("ep_"));
        assert_eq!(attempt.header("webhook-id"), id);
        let timestamp = attempt.header("webhook-timestamp").parse().unwrap();
        assert!(timestamp >= START.seconds() && timestamp < START.seconds() + 60);
        assert_eq!(attempt.header("webhook-signature"), signer.sign_message(&id, timestamp, &attempt.raw));
        assert_eq!(attempt.header("x-webhook-signature"), signer.sign_body(&attempt.raw));
        assert_eq!(attempt.header("content-type"), "application/json");
        assert_eq!(attempt.header("user-agent"), concat!("relevo-webhook/", env!("CARGO_PKG_VERSION")));
        assert_eq!(attempt.body["instance_id"], "shop");
        assert_eq!(attempt.body["event"], "message_ack");
        assert_eq!(attempt.body["timestamp"], START.seconds());
    }
    let counts = eventually("all are counted", || {
        let counts = fixture.handle.get(endpoint.id).unwrap().counts;
        (counts.delivered == 37).then_some(counts)
    });
    assert_eq!(counts.await, fixture.handle.totals().counts);
}

#[tokio::test]
async fn an_endpoint_without_a_secret_signs_nothing() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(204).await;
    let plain = EndpointConfig { secret: Some(Secret::new("")), ..config(&receiver.url) };
    let view = fixture.set_primary(plain).await.unwrap();
    assert_eq!(view.secret, None);
    fixture.append(ONE, EventKind::Message, 1..=1).await;
    let attempts = receiver.wait_until("one", |attempts| !attempts.is_empty()).await;
    for name in ["webhook-signature", "x-webhook-signature"] {
        assert_eq!(attempts[0].header(name), "");
    }
    assert_ne!(attempts[0].header("webhook-id"), "");
}

#[tokio::test]
async fn endpoint_receives_only_its_event_kinds() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let (some, raw) = (StubReceiver::with_status(200).await, StubReceiver::with_status(200).await);
    for (receiver, name) in [(&some, "message"), (&raw, "raw")] {
        let events = Events::parse(vec![name.to_owned()]).unwrap();
        let config = EndpointConfig { events, ..config(&receiver.url) };
        fixture.create(EndpointScope::All, config).await.unwrap();
    }
    for n in 1..=60 {
        let kind = match n % 3 {
            0 => EventKind::Message,
            1 => EventKind::Raw,
            _ => EventKind::Status,
        };
        fixture.append(ONE, kind, n..=n).await;
    }
    some.wait_until("20 messages", |attempts| attempts.len() >= 20).await;
    raw.wait_until("20 raw ones", |attempts| attempts.len() >= 20).await;
    assert_eq!(some.numbers(), (1..=60).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    assert_eq!(raw.numbers(), (1..=60).filter(|n| n % 3 == 1).collect::<Vec<_>>());
}

#[tokio::test]
async fn endpoint_for_all_serves_instances_created_later() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    fixture.append(ONE, EventKind::Message, 1..=5).await;
    fixture.endpoint(EndpointScope::All, &receiver).await;
    let three = two().next().unwrap();
    fixture.append(three, EventKind::Message, 30..=32).await;
    fixture.add_instance(three, "late");
    fixture.append(ONE, EventKind::Message, 10..=12).await;
    fixture.append(two(), EventKind::Message, 20..=22).await;
    let attempts = receiver.wait_until("nine events", |attempts| attempts.len() >= 9).await;
    for (name, numbers) in [("shop", 10..=12), ("bar", 20..=22), ("late", 30..=32)] {
        let of = attempts.iter().filter(|attempt| attempt.body["instance_id"] == name);
        assert_eq!(of.map(ReceivedRequest::n).collect::<Vec<_>>(), numbers.collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn clean_restart_neither_repeats_nor_loses_events() {
    let mut fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await;
    for round in 0..3 {
        fixture.append(ONE, EventKind::Message, round * 100..round * 100 + 100).await;
        receiver.wait_until("a part", |attempts| attempts.len() as u64 >= round * 100 + 20).await;
        fixture.handle.drain(std::time::Duration::from_secs(10)).await;
        fixture = fixture.restart().await;
    }
    receiver.wait_until("all of it", |attempts| attempts.len() >= 300).await;
    assert_eq!(receiver.numbers(), (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn replay_resends_from_a_sequence_or_a_time() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    fixture.append(ONE, EventKind::Message, 1..=4).await;
    real_pause().await;
    let moment = fixture.clock.now();
    fixture.append(ONE, EventKind::Message, 5..=9).await;
    let id = fixture.endpoint(EndpointScope::All, &receiver).await.id;
    assert_eq!(fixture.handle.lag(id).await.unwrap(), Default::default());

    fixture.handle.replay_from(id, Some(ONE), ReplayFrom::Sequence(8)).await.unwrap();
    receiver.wait_until("8 and 9", |attempts| attempts.len() >= 2).await;
    assert_eq!(receiver.numbers(), [8, 9]);
    fixture.handle.replay_from(id, None, ReplayFrom::Time(moment)).await.unwrap();
    receiver.wait_until("5 to 9", |attempts| attempts.len() >= 7).await;
    assert_eq!(receiver.numbers()[2..], [5, 6, 7, 8, 9]);
    fixture.handle.replay_from(id, Some(ONE), ReplayFrom::Sequence(0)).await.unwrap();
    receiver.wait_until("all", |attempts| attempts.len() >= 16).await;
    assert_eq!(receiver.numbers()[7..], (1..=9).collect::<Vec<_>>());

    let same: Vec<_> = receiver.attempts().iter().filter(|attempt| attempt.n() == 8).cloned().collect();
    assert!(same.iter().all(|attempt| attempt.header("webhook-id") == same[0].header("webhook-id")));
    let nameless = fixture.handle.replay_from(id, None, ReplayFrom::Sequence(1)).await.unwrap_err();
    assert_eq!(nameless.invalid().unwrap().field, "instance_id");
}

#[tokio::test]
async fn trimmed_events_are_reported_as_a_gap() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    let only_messages = Events::parse(vec!["message".to_owned()]).unwrap();
    let config = EndpointConfig { events: only_messages, ..config(&receiver.url) };
    let id = fixture.create(EndpointScope::Instance(ONE), config).await.unwrap().id;
    let enable = async |enabled| {
        let update = EndpointUpdate { enabled: Some(enabled), ..EndpointUpdate::default() };
        fixture.handle.update(id, update).await.unwrap();
    };
    let trim = async |limit| {
        let since = fixture.clock.now() + std::time::Duration::from_secs(1);
        let keep = events::RetentionLimits { since, bytes: u64::MAX };
        let trimmed = fixture.store.write(move |tx| events::trim(tx, ONE, &keep, limit)).await.unwrap();
        assert_eq!(trimmed, limit);
    };
    enable(false).await;
    fixture.append(ONE, EventKind::Message, 1..=9).await;
    trim(5).await;
    enable(true).await;
    let attempts = receiver.wait_until("the rest", |attempts| attempts.len() >= 5).await;
    assert_eq!(receiver.numbers(), [0, 6, 7, 8, 9], "0 is the gap, which passes every filter");
    assert_eq!(attempts[0].body["event"], "gap");
    assert_eq!(attempts[0].body["data"], json!({ "from": 1, "to": 5, "missing": 5 }));
    assert_eq!(fixture.handle.get(id).unwrap().counts.missed, 5);
    fixture.wait_until_caught_up(id).await;

    enable(false).await;
    fixture.append(ONE, EventKind::Message, 10..=12).await;
    trim(7).await;
    enable(true).await;
    eventually("nothing is left", || (fixture.handle.get(id).unwrap().counts.missed == 8).then_some(()))
        .await;
    fixture.wait_until_caught_up(id).await;
    fixture.append(ONE, EventKind::Message, 13..=13).await;
    receiver.wait_until("the event after the gap", |attempts| attempts.len() >= 7).await;
    assert_eq!(receiver.numbers(), [0, 6, 7, 8, 9, 0, 13]);
    let gap = receiver.attempts()[5].clone();
    assert_eq!(gap.body["data"], json!({ "from": 10, "to": 12, "missing": 3 }));
    assert!(gap.header("webhook-id").starts_with("gap_") && gap.header("webhook-id").ends_with("_1_12_3"));
}

#[tokio::test]
async fn gap_is_retried_until_delivered() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(500).await;
    let id = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    fixture.append(ONE, EventKind::Message, 1..=5).await;
    receiver.wait_until("the first is refused", |attempts| !attempts.is_empty()).await;
    let keep = events::RetentionLimits {
        since: fixture.clock.now() + std::time::Duration::from_secs(1),
        bytes: u64::MAX,
    };
    fixture.store.write(move |tx| events::trim(tx, ONE, &keep, 3)).await.unwrap();
    let gap_count =
        |attempts: &[ReceivedRequest]| attempts.iter().filter(|it| it.body["event"] == "gap").count();
    receiver.wait_until("the gap fails and is retried", |attempts| gap_count(attempts) >= 2).await;
    let tried = receiver.attempts();
    let gaps: Vec<_> = tried.iter().filter(|attempt| attempt.body["event"] == "gap").collect();
    assert_eq!(gaps[0].header("webhook-id"), gaps[1].header("webhook-id"));
    assert_eq!(gaps[0].raw, gaps[1].raw);
    assert_eq!(
        fixture.handle.get(id).unwrap().counts.missed,
        0,
        "missed events count after the gap is delivered"
    );

    receiver.set_behaviour(|_| ReceiverAction::Status(200));
    receiver.wait_until("the rest", |attempts| attempts.iter().any(|attempt| attempt.n() == 5)).await;
    assert_eq!(receiver.numbers()[receiver.numbers().len() - 3..], [0, 4, 5]);
    fixture.wait_until_caught_up(id).await;
    assert_eq!(fixture.handle.get(id).unwrap().counts.missed, 3);
}
