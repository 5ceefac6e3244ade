//! Receivers that fail, refuse, hang or are not there.

use std::time::Duration;

use axum::response::{IntoResponse, Redirect};

use super::world::*;
use crate::events;
use crate::webhook::{Options, ParkReason, Place, Scope};

#[tokio::test]
async fn every_third_500_repeats_but_never_reorders() {
    let world = World::new(quick()).await;
    let mut calls = 0;
    let receiver = Receiver::new(move |_| {
        calls += 1;
        Answer::Status(if calls % 3 == 0 { 500 } else { 200 })
    });
    let receiver = receiver.await;
    let id = world.endpoint(Scope::Instance(ONE), &receiver).await.id;
    for n in 1..=40 {
        world.append(ONE, "message", n..=n).await;
    }
    receiver
        .until("the last", |attempts| attempts.iter().filter(|attempt| attempt.n() == 40).count() > 0)
        .await;
    eventually("it counts", || (world.handle.get(id).unwrap().counts.delivered == 40).then_some(())).await;
    let numbers = receiver.numbers();
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert!(numbers.len() > 50, "{numbers:?}");
    assert_eq!(distinct(numbers), (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_crashed_endpoint_is_replaced_and_goes_on() {
    let world = World::new(quick()).await;
    let receiver = Receiver::answering(200).await;
    world.endpoint(Scope::All, &receiver).await;
    for round in 1..=3 {
        world.append(ONE, "message", round * 50 - 49..=round * 50).await;
        receiver.until("a few", |attempts| distinct_of(attempts).len() as u64 > round * 50 - 40).await;
        world.crash_endpoints();
    }
    receiver.until("everything", |attempts| distinct_of(attempts).len() >= 150).await;
    // What was delivered since the last save is told again, from there on in order.
    let numbers = receiver.numbers();
    let steps_back = numbers.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(steps_back <= 3, "{numbers:?}");
    assert!(numbers.windows(2).all(|pair| pair[1] <= pair[0] + 1), "nothing is skipped: {numbers:?}");
}

fn distinct_of(attempts: &[Attempt]) -> Vec<u64> {
    distinct(attempts.iter().map(Attempt::n).collect())
}

#[tokio::test]
async fn one_that_hangs_delays_only_itself() {
    let world = World::new(quick()).await;
    let (hangs, lives) = (Receiver::new(|_| Answer::Hang).await, Receiver::answering(200).await);
    let stuck = world.endpoint(Scope::All, &hangs).await.id;
    world.endpoint(Scope::Instance(ONE), &lives).await;
    world.append(ONE, "message", 1..=200).await;
    lives.until("everything", |attempts| attempts.len() >= 200).await;
    assert_eq!(lives.numbers(), (1..=200).collect::<Vec<_>>());
    hangs.until("another attempt", |attempts| attempts.len() >= 3).await;
    assert_eq!(distinct(hangs.numbers()), [1]);
    let trouble = world.handle.get(stuck).unwrap().trouble.unwrap();
    assert!(trouble.error.contains("did not answer within 300ms"), "{}", trouble.error);
    assert_eq!(world.handle.lag(stuck).await.unwrap().events, 200);
    assert_eq!(world.handle.totals().failing, 1);
}

#[tokio::test]
async fn one_instance_of_an_endpoint_for_all_does_not_hold_the_others() {
    let world = World::new(quick()).await;
    let receiver =
        Receiver::new(
            |attempt| {
                if attempt.body["instance_id"] == "shop" { Answer::Hang } else { Answer::Status(200) }
            },
        );
    let receiver = receiver.await;
    world.endpoint(Scope::All, &receiver).await;
    world.append(ONE, "message", 1..=50).await;
    world.append(two(), "message", 1001..=1050).await;
    let attempts = receiver.until("the other's", |attempts| attempts.iter().any(|a| a.n() == 1050)).await;
    let others: Vec<_> = attempts.iter().map(Attempt::n).filter(|&n| n > 1000).collect();
    assert_eq!(others, (1001..=1050).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_refused_for_good_is_parked_and_can_be_replayed() {
    let world = World::new(quick()).await;
    let receiver = Receiver::new(|attempt| match attempt.n() {
        2 => Answer::With((axum::http::StatusCode::UNPROCESSABLE_ENTITY, "no such field").into_response()),
        _ => Answer::Status(200),
    });
    let receiver = receiver.await;
    let id = world.endpoint(Scope::Instance(ONE), &receiver).await.id;
    world.append(ONE, "message", 1..=4).await;
    receiver.until("the fourth", |attempts| attempts.last().is_some_and(|last| last.n() == 4)).await;
    assert_eq!(receiver.numbers(), [1, 2, 2, 2, 3, 4]);

    let place = Place { instance: ONE, sequence: 2 };
    let parked = world.handle.parked(id, None, 10).await.unwrap();
    assert_eq!(parked.len(), 1);
    let view = &parked[0];
    assert_eq!((view.place, view.reason, view.attempts), (place, ParkReason::Refused, 3));
    assert_eq!(view.error, "the receiver answered 422 Unprocessable Entity: no such field");
    assert_eq!(view.event.as_ref().unwrap().data["n"], 2);
    assert!(world.handle.parked(id, Some(place), 10).await.unwrap().is_empty());

    let world = world.restart().await;
    let still = world.handle.replay_all_parked(id).await.unwrap();
    assert!(still.delivered.is_empty() && still.failed.is_some(), "{still:?}");
    receiver.become_(|_| Answer::Status(200));
    assert_eq!(world.handle.replay_parked(id, place).await.unwrap().delivered, [place]);
    assert_eq!(receiver.numbers().last(), Some(&2));
    assert!(world.handle.parked(id, None, 10).await.unwrap().is_empty());
    assert!(world.handle.replay_parked(id, place).await.is_err());
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_leads_nowhere() {
    let world = World::new(quick()).await;
    let target = Receiver::answering(200).await;
    let url = target.url.to_string();
    let receiver = Receiver::new(move |_| Answer::With(Redirect::temporary(&url).into_response())).await;
    world.endpoint(Scope::Instance(ONE), &receiver).await;
    world.append(ONE, "message", 1..=1).await;
    receiver.until("two attempts", |attempts| attempts.len() >= 2).await;
    assert!(target.attempts().is_empty());
    assert_eq!(distinct(receiver.numbers()), [1]);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_well_is_disabled_and_keeps_its_backlog() {
    let options = Options { give_up_after: Duration::from_millis(50), give_up_attempts: 4, ..quick() };
    let world = World::new(options).await;
    let receiver = Receiver::answering(500).await;
    let id = world.endpoint(Scope::Instance(ONE), &receiver).await.id;
    world.append(ONE, "message", 1..=3).await;
    let disabled = eventually("it is disabled", || world.handle.get(id).unwrap().disabled).await;
    assert!(disabled.reason.contains("500"), "{disabled:?}");
    let log = events::read(&world.store, ONE, 3, 9).unwrap();
    let announced = &log[0].event;
    assert_eq!(announced.kind, "webhook_disabled");
    assert_eq!(announced.data["endpoint_id"], id.to_string());
    assert!(announced.data["attempts"].as_u64().unwrap() >= 4);
    assert!(!announced.data.to_string().contains("token"), "a URL may hold secrets: {announced:?}");

    let world = world.restart().await;
    receiver.become_(|_| Answer::Status(200));
    let before = receiver.attempts().len();
    world.append(ONE, "message", 4..=5).await;
    assert_eq!(world.handle.lag(id).await.unwrap().events, 6);
    assert_eq!(world.handle.enable(id).await.unwrap().disabled, None);
    receiver.until("the backlog", |attempts| attempts.len() >= before + 6).await;
    assert_eq!(receiver.numbers()[before..], [1, 2, 3, 0, 4, 5], "0 is the announcement");
}

/// A simulated day: the clock stands still but for the steps that the test takes.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_down_for_a_day_gets_everything_in_order() {
    let _stopped = stop_time();
    let mut world = World::new(Options::default()).await;
    let receiver = Receiver::answering(503).await;
    let id = world.endpoint(Scope::Instance(ONE), &receiver).await.id;
    let mut next = 1;
    for half_hour in 0..48 {
        world.append(ONE, "message_ack", next..next + 5).await;
        next += 5;
        tokio::time::advance(Duration::from_secs(1800)).await;
        eventually("the next attempt lies ahead", || {
            let trouble = world.handle.get(id).unwrap().trouble?;
            (trouble.next_attempt > world.clock.now()).then_some(())
        })
        .await;
        if half_hour == 15 || half_hour == 31 {
            world = world.restart().await;
            eventually("it tries at once", || world.handle.get(id).unwrap().trouble).await;
        }
    }
    let failed = receiver.attempts();
    assert!(failed.len() >= 24, "{} attempts in a day", failed.len());
    assert!(failed.iter().all(|attempt| attempt.n() == 1), "nothing overtakes the first");
    let trouble = world.handle.get(id).unwrap().trouble.unwrap();
    assert_eq!(trouble.attempts as usize, failed.len(), "restarts do not forget");
    assert!(trouble.since <= START + Duration::from_secs(1800), "{trouble:?}");
    let lag = world.handle.lag(id).await.unwrap();
    assert_eq!(lag.events, 240);
    assert!(lag.oldest.unwrap() >= Duration::from_secs(24 * 3600));

    receiver.become_(|_| Answer::Status(200));
    tokio::time::advance(Duration::from_secs(3600)).await;
    receiver.until("everything", |attempts| attempts.len() >= failed.len() + 240).await;
    assert_eq!(receiver.numbers()[failed.len()..], (1..=240).collect::<Vec<_>>());
    assert_eq!(receiver.attempts()[failed.len()].header("webhook-id"), failed[0].header("webhook-id"));
    assert_eq!(world.handle.get(id).unwrap().trouble, None);
}
