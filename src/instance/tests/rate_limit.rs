//! When messages are leased and sent while the rate limit determines the throughput.

use std::collections::HashSet;
use std::time::Duration;

use super::fixture::{InstanceFixture, eventually};
use relevo_domain::{Class, InstanceId, MessageId, RateLimit, Status};

const MILLISECOND: Duration = Duration::from_millis(1);

fn rate(per_second: f64) -> RateLimit {
    RateLimit { per_second, burst: 1.try_into().unwrap() }
}

async fn enqueue_rows(world: &InstanceFixture, id: &InstanceId, count: usize) -> Vec<MessageId> {
    let mut rows = Vec::with_capacity(count);
    for row in 0..count {
        rows.push(world.send_to(id, &format!("57300{row:07}"), Class::Bulk).await);
    }
    rows
}

fn sent_messages(world: &InstanceFixture) -> Vec<MessageId> {
    world.net.sent.lock().unwrap().iter().map(|(_, message)| *message).collect()
}

fn count_with_status(world: &InstanceFixture, rows: &[MessageId], status: Status) -> usize {
    rows.iter().filter(|row| world.bench.view(**row).status == status).count()
}

#[tokio::test(start_paused = true)]
async fn fast_instance_leases_a_batch_and_keeps_a_permit_for_transactional_messages() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_at("shop", rate(200.0)).await;
    let rows = enqueue_rows(&world, &id, 9).await;
    world.connect(&id, number).await;
    // One permit is available, and four more come within the batch window.
    eventually("a batch", || count_with_status(&world, &rows, Status::Sending) == 5).await;
    assert!(sent_messages(&world).is_empty());
    let began = world.bench.clock.now();
    let single = world.send(&id).await;
    world.wait_for_status(&id, single, Status::Sent).await;
    assert_eq!((world.bench.clock.now(), sent_messages(&world)), (began, vec![single]));
    assert_eq!(
        count_with_status(&world, &rows, Status::Queued),
        4,
        "no more is leased before the batch is used up"
    );
    // Leases take real time, so this may take longer than the rows need.
    let mut elapsed = 0;
    while count_with_status(&world, &rows, Status::Sent) < rows.len() {
        world.advance(MILLISECOND).await;
        elapsed += 1;
        let limit = 1 + elapsed / 5;
        assert!(
            sent_messages(&world).len() <= limit,
            "{} sent, limit {limit} after {elapsed} ms",
            sent_messages(&world).len()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn quick_instance_leases_the_next_message_in_the_commit_that_enqueues_it() {
    let world = InstanceFixture::open().await;
    let (id, _) = world.create_connected("shop").await;
    // The actor asks for the next message after its first lease request has returned.
    for _ in 0..100 {
        let before = world.bench.store.commits();
        let single = world.send(&id).await;
        world.wait_for_status(&id, single, Status::Sent).await;
        if world.bench.store.commits() == before + 2 {
            return;
        }
    }
    panic!("every message took more than two commits");
}

#[tokio::test(start_paused = true)]
async fn slow_instance_leases_only_what_has_a_permit() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_at("shop", rate(1.0)).await;
    let rows = enqueue_rows(&world, &id, 3).await;
    world.connect(&id, number).await;
    for second in 1..=3 {
        eventually("a row", || count_with_status(&world, &rows, Status::Sent) == second).await;
        world.advance(990 * MILLISECOND).await;
        assert_eq!(
            count_with_status(&world, &rows, Status::Queued),
            3 - second,
            "the next has no permit yet"
        );
        world.advance(20 * MILLISECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn transactional_messages_do_not_starve_the_bulk_class() {
    let world = InstanceFixture::open().await;
    let unlimited = RateLimit { per_second: 1000.0, burst: 1000.try_into().unwrap() };
    let (id, number) = world.create_at("shop", unlimited).await;
    let rows = enqueue_rows(&world, &id, 4).await;
    let mut singles = Vec::new();
    for single in 0..40 {
        singles.push(world.send_to(&id, &format!("57311{single:07}"), Class::Transactional).await);
    }
    world.connect(&id, number).await;
    eventually("all messages to be sent", || sent_messages(&world).len() == rows.len() + singles.len()).await;
    let sent = sent_messages(&world);
    let last_row = sent.iter().rposition(|id| rows.contains(id)).unwrap();
    let first_row = sent.iter().position(|id| rows.contains(id)).unwrap();
    assert!(first_row > 0 && last_row < sent.len() - 10, "{first_row} {last_row}");
}

#[tokio::test(start_paused = true)]
async fn leases_that_wait_behind_hanging_attempts_are_renewed() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_at("shop", rate(200.0)).await;
    let rows = enqueue_rows(&world, &id, 40).await;
    world.net.hanging_sends.lock().unwrap().insert(number);
    world.connect(&id, number).await;
    // Every worker hangs, and more rows are leased than have begun.
    while sent_messages(&world).len() < 3 || count_with_status(&world, &rows, Status::Sending) < 5 {
        world.advance(MILLISECOND).await;
        assert!(count_with_status(&world, &rows, Status::Queued) > 0, "every row is leased");
    }
    let began = sent_messages(&world);
    world.net.hanging_sends.lock().unwrap().clear();
    world.advance(Duration::from_secs(31)).await;
    for row in rows.iter().filter(|row| !began.contains(row)) {
        while world.bench.view(*row).status != Status::Sent {
            world.advance(MILLISECOND).await;
        }
        let history = world.bench.view(*row).history;
        let at = |status| history.iter().rfind(|step| step.status == status).unwrap().at;
        assert!(at(Status::Sent).since(at(Status::Sending)) <= Duration::from_secs(5), "{history:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn under_load_every_message_is_sent_once() {
    let world = InstanceFixture::open().await;
    let (id, number) = world.create_at("shop", rate(1000.0)).await;
    let mut all = enqueue_rows(&world, &id, 30).await;
    world.connect(&id, number).await;
    for round in 0..30 {
        all.push(world.send_to(&id, &format!("57300{:07}", round % 7), Class::Transactional).await);
        all.push(world.send_to(&id, &format!("57300{:07}", round % 5), Class::Bulk).await);
        world.advance(MILLISECOND).await;
    }
    while count_with_status(&world, &all, Status::Sent) < all.len() {
        assert!(sent_messages(&world).len() <= all.len(), "a message was sent twice");
        world.advance(MILLISECOND).await;
    }
    let distinct: HashSet<_> = sent_messages(&world).into_iter().collect();
    assert_eq!((distinct.len(), sent_messages(&world).len()), (all.len(), all.len()));
}
