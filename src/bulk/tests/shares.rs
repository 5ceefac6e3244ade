//! Several instances at one job.

use super::world::{World, job, phone, two};
use crate::bulk::{NewJob, Options, Senders};
use crate::queue::tests::bench::ONE;
use relevo_domain::InstanceState;

#[tokio::test]
async fn a_recipient_stays_with_an_instance_and_both_have_a_share() {
    let world = World::open().await;
    world.play_both();
    // Every recipient three times.
    let rows = world.rows((0..900).map(|row| phone(row % 300)));
    let id = world.handle.create(job(), rows).await.unwrap().id;
    world.until_completed(id).await;
    let attempts = world.attempts.lock().unwrap().clone();
    for row in 0..300 {
        assert!(attempts[&row] == attempts[&(row + 300)] && attempts[&row] == attempts[&(row + 600)]);
    }
    let first = attempts.values().filter(|by| by[0] == ONE).count();
    assert!((300..600).contains(&first), "{first}");
    let results = world.results(id).await;
    for row in &results {
        let name = if attempts[&row.row][0] == ONE { "one" } else { "two" };
        assert_eq!(row.instance.as_ref().unwrap().as_str(), name);
        assert_eq!(row.device_id, Some(if name == "one" { 1 } else { 2 }));
    }
}

#[tokio::test]
async fn the_share_of_a_dead_instance_moves_to_the_living() {
    let world = World::with(Options { window: 100, ..Options::default() }).await;
    world.play(two(), |_| super::world::Fate::Sent);
    let id = world.create(job(), 400).await;
    world.until(id, |progress| progress.counts.sent > 0).await;
    world.set(ONE, InstanceState::LoggedOut);
    let progress = world.until_completed(id).await;
    assert_eq!((progress.counts.sent, progress.counts.cancelled), (400, 0));
    assert_eq!(world.times(), vec![1; 400]);
}

#[tokio::test]
async fn named_instances_send_and_no_others() {
    let world = World::open().await;
    world.play_both();
    let named = NewJob { senders: Senders::Named(vec!["two".parse().unwrap()]), ..job() };
    let id = world.create(named, 50).await;
    world.until_completed(id).await;
    assert!(world.attempts.lock().unwrap().values().all(|by| *by == [two()]));
}

#[tokio::test]
async fn a_job_without_a_living_instance_waits_and_says_so() {
    let world = World::open().await;
    world.play_both();
    world.set(ONE, InstanceState::Disconnected);
    let named = NewJob { senders: Senders::Named(vec!["one".parse().unwrap()]), ..job() };
    let id = world.create(named, 5).await;
    let progress = world.until(id, |progress| progress.error.is_some()).await;
    assert!(progress.error.unwrap().contains("none of the job's instances"));
    world.set(ONE, InstanceState::Connected);
    let progress = world.until_completed(id).await;
    assert_eq!((progress.counts.sent, progress.error), (5, None));
}
