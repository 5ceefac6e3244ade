//! Deliveries to receivers that fail, refuse or hang.

use std::time::Duration;

use axum::response::{IntoResponse, Redirect};

use super::fixture::*;
use crate::events;
use crate::webhook::{EndpointScope, EventRef, Options, ParkReason};
use relevo_domain::EventKind;

#[tokio::test]
async fn failed_attempts_repeat_but_never_reorder_events() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let mut calls = 0;
    let receiver = StubReceiver::new(move |_| {
        calls += 1;
        ReceiverAction::Status(if calls % 3 == 0 { 500 } else { 200 })
    });
    let receiver = receiver.await;
    let id = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    for n in 1..=40 {
        fixture.append(ONE, EventKind::Message, n..=n).await;
    }
    receiver
        .wait_until("the last", |attempts| attempts.iter().filter(|attempt| attempt.n() == 40).count() > 0)
        .await;
    eventually("it counts", || (fixture.handle.get(id).unwrap().counts.delivered == 40).then_some(())).await;
    let numbers = receiver.numbers();
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert!(numbers.len() > 50, "{numbers:?}");
    assert_eq!(distinct(numbers), (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn crashed_endpoint_actor_is_restarted_and_continues() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::with_status(200).await;
    fixture.endpoint(EndpointScope::All, &receiver).await;
    for round in 1..=3 {
        fixture.append(ONE, EventKind::Message, round * 50 - 49..=round * 50).await;
        receiver.wait_until("a few", |attempts| distinct_of(attempts).len() as u64 > round * 50 - 40).await;
        fixture.crash_endpoints();
    }
    receiver.wait_until("everything", |attempts| distinct_of(attempts).len() >= 150).await;
    // At most the event in flight and the one before it are delivered again, in order.
    let numbers = receiver.numbers();
    assert!(numbers.windows(2).all(|pair| pair[1] + 1 >= pair[0]), "{numbers:?}");
    let steps_back = numbers.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(steps_back <= 3, "{numbers:?}");
    assert!(numbers.windows(2).all(|pair| pair[1] <= pair[0] + 1), "nothing is skipped: {numbers:?}");
}

fn distinct_of(attempts: &[ReceivedRequest]) -> Vec<u64> {
    distinct(attempts.iter().map(ReceivedRequest::n).collect())
}

#[tokio::test]
async fn hanging_receiver_delays_only_its_own_endpoint() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let (hangs, lives) =
        (StubReceiver::new(|_| ReceiverAction::Hang).await, StubReceiver::with_status(200).await);
    let stuck = fixture.endpoint(EndpointScope::All, &hangs).await.id;
    fixture.endpoint(EndpointScope::Instance(ONE), &lives).await;
    fixture.append(ONE, EventKind::Message, 1..=200).await;
    lives.wait_until("everything", |attempts| attempts.len() >= 200).await;
    assert_eq!(lives.numbers(), (1..=200).collect::<Vec<_>>());
    hangs.wait_until("another attempt", |attempts| attempts.len() >= 3).await;
    assert_eq!(distinct(hangs.numbers()), [1]);
    let failures = fixture.handle.get(stuck).unwrap().failures.unwrap();
    assert!(failures.error.contains("did not answer within 300ms"), "{}", failures.error);
    assert_eq!(fixture.handle.lag(stuck).await.unwrap().events, 200);
    assert_eq!(fixture.handle.totals().failing, 1);
}

#[tokio::test]
async fn blocked_instance_does_not_delay_the_other_instances() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::new(|attempt| {
        if attempt.body["instance_id"] == "shop" { ReceiverAction::Hang } else { ReceiverAction::Status(200) }
    });
    let receiver = receiver.await;
    fixture.endpoint(EndpointScope::All, &receiver).await;
    fixture.append(ONE, EventKind::Message, 1..=50).await;
    fixture.append(two(), EventKind::Message, 1001..=1050).await;
    let attempts =
        receiver.wait_until("the other's", |attempts| attempts.iter().any(|a| a.n() == 1050)).await;
    let others: Vec<_> = attempts.iter().map(ReceivedRequest::n).filter(|&n| n > 1000).collect();
    assert_eq!(others, (1001..=1050).collect::<Vec<_>>());
}

#[tokio::test]
async fn refused_event_is_parked_and_can_be_replayed() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let receiver = StubReceiver::new(|attempt| match attempt.n() {
        2 => ReceiverAction::Respond(
            (axum::http::StatusCode::UNPROCESSABLE_ENTITY, "no such field").into_response(),
        ),
        _ => ReceiverAction::Status(200),
    });
    let receiver = receiver.await;
    let id = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    fixture.append(ONE, EventKind::Message, 1..=4).await;
    receiver.wait_until("the fourth", |attempts| attempts.last().is_some_and(|last| last.n() == 4)).await;
    assert_eq!(receiver.numbers(), [1, 2, 2, 2, 3, 4]);

    let event_ref = EventRef { instance: ONE, sequence: 2 };
    let parked = fixture.handle.parked(id, None, 10).await.unwrap();
    assert_eq!(parked.len(), 1);
    let view = &parked[0];
    assert_eq!((view.event_ref, view.reason, view.attempts), (event_ref, ParkReason::Refused, 3));
    assert_eq!(view.error, "the receiver answered 422 Unprocessable Entity: no such field");
    assert_eq!(view.event.as_ref().unwrap().data["n"], 2);
    assert!(fixture.handle.parked(id, Some(event_ref), 10).await.unwrap().is_empty());

    let fixture = fixture.restart().await;
    let still = fixture.handle.replay_all_parked(id).await.unwrap();
    assert!(still.delivered.is_empty() && still.failed.is_some(), "{still:?}");
    receiver.set_behaviour(|_| ReceiverAction::Status(200));
    assert_eq!(fixture.handle.replay_parked(id, event_ref).await.unwrap().delivered, [event_ref]);
    assert_eq!(receiver.numbers().last(), Some(&2));
    assert!(fixture.handle.parked(id, None, 10).await.unwrap().is_empty());
    assert!(fixture.handle.replay_parked(id, event_ref).await.is_err());
}

#[tokio::test]
async fn redirect_is_a_failure_and_is_not_followed() {
    let fixture = WebhookFixture::new(fast_options()).await;
    let target = StubReceiver::with_status(200).await;
    let url = target.url.to_string();
    let receiver =
        StubReceiver::new(move |_| ReceiverAction::Respond(Redirect::temporary(&url).into_response())).await;
    fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await;
    fixture.append(ONE, EventKind::Message, 1..=1).await;
    receiver.wait_until("two attempts", |attempts| attempts.len() >= 2).await;
    assert!(target.attempts().is_empty());
    assert_eq!(distinct(receiver.numbers()), [1]);
}

#[tokio::test]
async fn failing_endpoint_is_disabled_and_keeps_its_backlog() {
    let options = Options { give_up_after: Duration::from_millis(50), give_up_attempts: 4, ..fast_options() };
    let fixture = WebhookFixture::new(options).await;
    let receiver = StubReceiver::with_status(500).await;
    let id = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    fixture.append(ONE, EventKind::Message, 1..=3).await;
    let disabled = eventually("it is disabled", || fixture.handle.get(id).unwrap().disabled).await;
    assert!(disabled.reason.contains("500"), "{disabled:?}");
    let log = events::read(&fixture.store, ONE, 3, 9).unwrap();
    let announced = &log[0].event;
    assert_eq!(announced.kind, EventKind::WebhookDisabled);
    assert_eq!(announced.data["endpoint_id"], id.to_string());
    assert!(announced.data["attempts"].as_u64().unwrap() >= 4);
    assert!(!announced.data.to_string().contains("token"), "a URL may hold secrets: {announced:?}");

    let fixture = fixture.restart().await;
    receiver.set_behaviour(|_| ReceiverAction::Status(200));
    let before = receiver.attempts().len();
    fixture.append(ONE, EventKind::Message, 4..=5).await;
    assert_eq!(fixture.handle.lag(id).await.unwrap().events, 6);
    assert_eq!(fixture.handle.enable(id).await.unwrap().disabled, None);
    receiver.wait_until("the backlog", |attempts| attempts.len() >= before + 6).await;
    assert_eq!(receiver.numbers()[before..], [1, 2, 3, 0, 4, 5], "0 is the announcement");
}

/// Simulates a day: the clock moves only when the test advances it.
#[tokio::test(start_paused = true)]
async fn receiver_down_for_a_day_gets_all_events_in_order() {
    let _stopped = freeze_clock();
    let mut fixture = WebhookFixture::new(Options::default()).await;
    let receiver = StubReceiver::with_status(503).await;
    let id = fixture.endpoint(EndpointScope::Instance(ONE), &receiver).await.id;
    let mut next = 1;
    for half_hour in 0..48 {
        fixture.append(ONE, EventKind::MessageAck, next..next + 5).await;
        next += 5;
        tokio::time::advance(Duration::from_secs(1800)).await;
        eventually("the next attempt is scheduled", || {
            let failures = fixture.handle.get(id).unwrap().failures?;
            (failures.next_attempt > fixture.clock.now()).then_some(())
        })
        .await;
        if half_hour == 15 || half_hour == 31 {
            fixture = fixture.restart().await;
            eventually("an attempt follows the restart at once", || fixture.handle.get(id).unwrap().failures)
                .await;
        }
    }
    let failed = receiver.attempts();
    assert!(failed.len() >= 24, "{} attempts in a day", failed.len());
    assert!(failed.iter().all(|attempt| attempt.n() == 1), "nothing overtakes the first");
    let failures = fixture.handle.get(id).unwrap().failures.unwrap();
    assert_eq!(failures.attempts as usize, failed.len(), "failures survive restarts");
    assert!(failures.since <= START + Duration::from_secs(1800), "{failures:?}");
    let lag = fixture.handle.lag(id).await.unwrap();
    assert_eq!(lag.events, 240);
    assert!(lag.oldest.unwrap() >= Duration::from_secs(24 * 3600));

    receiver.set_behaviour(|_| ReceiverAction::Status(200));
    tokio::time::advance(Duration::from_secs(3600)).await;
    receiver.wait_until("everything", |attempts| attempts.len() >= failed.len() + 240).await;
    assert_eq!(receiver.numbers()[failed.len()..], (1..=240).collect::<Vec<_>>());
    assert_eq!(receiver.attempts()[failed.len()].header("webhook-id"), failed[0].header("webhook-id"));
    assert_eq!(fixture.handle.get(id).unwrap().failures, None);
}
