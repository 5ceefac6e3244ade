//! Tests of jobs with several instances.

use super::fixture::{BulkFixture, job, phone, two};
use crate::bulk::{NewJob, Options, SenderSelection};
use crate::queue::tests::fixture::ONE;
use relevo_domain::InstanceState;

#[tokio::test]
async fn recipient_stays_with_one_instance_and_both_instances_send() {
    let fixture = BulkFixture::open().await;
    fixture.run_both_instances();
    // Every recipient three times.
    let rows = fixture.draft((0..900).map(|row| phone(row % 300)));
    let id = fixture.handle.create(job(), rows).await.unwrap().id;
    fixture.wait_completed(id).await;
    let attempts = fixture.attempts.lock().unwrap().clone();
    for row in 0..300 {
        assert!(attempts[&row] == attempts[&(row + 300)] && attempts[&row] == attempts[&(row + 600)]);
    }
    let first = attempts.values().filter(|by| by[0] == ONE).count();
    assert!((300..600).contains(&first), "{first}");
    let results = fixture.results(id).await;
    for row in &results {
        let name = if attempts[&row.row][0] == ONE { "one" } else { "two" };
        assert_eq!(row.instance.as_ref().unwrap().as_str(), name);
        assert_eq!(row.device_id, Some(if name == "one" { 1 } else { 2 }));
    }
}

#[tokio::test]
async fn rows_of_a_logged_out_instance_move_to_the_others() {
    let fixture = BulkFixture::with_options(Options { window: 100, ..Options::default() }).await;
    fixture.run_instance(two(), |_| super::fixture::SendResult::Sent);
    let id = fixture.create(job(), 400).await;
    fixture.wait_until(id, |progress| progress.counts.sent > 0).await;
    fixture.set_state(ONE, InstanceState::LoggedOut);
    let progress = fixture.wait_completed(id).await;
    assert_eq!((progress.counts.sent, progress.counts.cancelled), (400, 0));
    assert_eq!(fixture.attempt_counts(), vec![1; 400]);
}

#[tokio::test]
async fn only_named_instances_send() {
    let fixture = BulkFixture::open().await;
    fixture.run_both_instances();
    let named = NewJob { senders: SenderSelection::Named(vec!["two".parse().unwrap()]), ..job() };
    let id = fixture.create(named, 50).await;
    fixture.wait_completed(id).await;
    assert!(fixture.attempts.lock().unwrap().values().all(|by| *by == [two()]));
}

#[tokio::test]
async fn job_without_a_connected_instance_waits_and_reports_it() {
    let fixture = BulkFixture::open().await;
    fixture.run_both_instances();
    fixture.set_state(ONE, InstanceState::Disconnected);
    let named = NewJob { senders: SenderSelection::Named(vec!["one".parse().unwrap()]), ..job() };
    let id = fixture.create(named, 5).await;
    let progress = fixture.wait_until(id, |progress| progress.error.is_some()).await;
    assert!(progress.error.unwrap().contains("none of the job's instances"));
    fixture.set_state(ONE, InstanceState::Connected);
    let progress = fixture.wait_completed(id).await;
    assert_eq!((progress.counts.sent, progress.error), (5, None));
}
