//! When messages are leased and when they leave, where the limiter sets the pace.

use std::collections::HashSet;
use std::time::Duration;

use super::world::{World, eventually};
use relevo_domain::{Class, InstanceId, MessageId, RateLimit, Status};

const MILLISECOND: Duration = Duration::from_millis(1);

fn rate(per_second: f64) -> RateLimit {
    RateLimit { per_second, burst: 1.try_into().unwrap() }
}

async fn rows(world: &World, id: &InstanceId, count: usize) -> Vec<MessageId> {
    let mut rows = Vec::with_capacity(count);
    for row in 0..count {
        rows.push(world.send_to(id, &format!("57300{row:07}"), Class::Bulk).await);
    }
    rows
}

fn sent(world: &World) -> Vec<MessageId> {
    world.net.sent.lock().unwrap().iter().map(|(_, message)| *message).collect()
}

fn standing(world: &World, rows: &[MessageId], status: Status) -> usize {
    rows.iter().filter(|row| world.bench.view(**row).status == status).count()
}

#[tokio::test(start_paused = true)]
async fn a_fast_instance_leases_a_lot_and_has_a_permit_for_whoever_waits() {
    let world = World::open().await;
    let (id, number) = world.create_at("shop", rate(200.0)).await;
    let rows = rows(&world, &id, 9).await;
    world.connect(&id, number).await;
    // One permit is in hand, and four come within the time of a lot.
    eventually("a lot", || standing(&world, &rows, Status::Sending) == 5).await;
    assert!(sent(&world).is_empty());
    let began = world.bench.clock.now();
    let single = world.send(&id).await;
    world.until_status(&id, single, Status::Sent).await;
    assert_eq!((world.bench.clock.now(), sent(&world)), (began, vec![single]));
    assert_eq!(
        standing(&world, &rows, Status::Queued),
        4,
        "nothing more is leased before the lot is used up"
    );
    // Leases come in real time, so there may be more of it than the rows need.
    let mut elapsed = 0;
    while standing(&world, &rows, Status::Sent) < rows.len() {
        world.pass(MILLISECOND).await;
        elapsed += 1;
        let most = 1 + elapsed / 5;
        assert!(sent(&world).len() <= most, "{} of {most} after {elapsed} ms", sent(&world).len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_quick_instance_has_its_next_message_with_the_commit_that_takes_it_in() {
    let world = World::open().await;
    let (id, _) = world.connected("shop").await;
    // It asks for its next message once it has looked for those that were there.
    for _ in 0..100 {
        let before = world.bench.store.commits();
        let single = world.send(&id).await;
        world.until_status(&id, single, Status::Sent).await;
        if world.bench.store.commits() == before + 2 {
            return;
        }
    }
    panic!("every message took more than two commits");
}

#[tokio::test(start_paused = true)]
async fn a_slow_instance_leases_nothing_that_has_no_permit() {
    let world = World::open().await;
    let (id, number) = world.create_at("shop", rate(1.0)).await;
    let rows = rows(&world, &id, 3).await;
    world.connect(&id, number).await;
    for second in 1..=3 {
        eventually("a row", || standing(&world, &rows, Status::Sent) == second).await;
        world.pass(990 * MILLISECOND).await;
        assert_eq!(standing(&world, &rows, Status::Queued), 3 - second, "the next has no permit yet");
        world.pass(20 * MILLISECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_leave_a_turn_to_the_bulk_class() {
    let world = World::open().await;
    let unlimited = RateLimit { per_second: 1000.0, burst: 1000.try_into().unwrap() };
    let (id, number) = world.create_at("shop", unlimited).await;
    let rows = rows(&world, &id, 4).await;
    let mut singles = Vec::new();
    for single in 0..40 {
        singles.push(world.send_to(&id, &format!("57311{single:07}"), Class::Transactional).await);
    }
    world.connect(&id, number).await;
    eventually("all", || sent(&world).len() == rows.len() + singles.len()).await;
    let sent = sent(&world);
    let last_row = sent.iter().rposition(|id| rows.contains(id)).unwrap();
    let first_row = sent.iter().position(|id| rows.contains(id)).unwrap();
    assert!(first_row > 0 && last_row < sent.len() - 10, "{first_row} {last_row}");
}

#[tokio::test(start_paused = true)]
async fn what_waited_behind_attempts_that_hang_is_leased_anew() {
    let world = World::open().await;
    let (id, number) = world.create_at("shop", rate(200.0)).await;
    let rows = rows(&world, &id, 40).await;
    world.net.stuck.lock().unwrap().insert(number);
    world.connect(&id, number).await;
    // Every worker hangs, and more rows are leased than began.
    while sent(&world).len() < 3 || standing(&world, &rows, Status::Sending) < 5 {
        world.pass(MILLISECOND).await;
        assert!(standing(&world, &rows, Status::Queued) > 0, "nothing was left to be leased");
    }
    let began = sent(&world);
    world.net.stuck.lock().unwrap().clear();
    world.pass(Duration::from_secs(31)).await;
    for row in rows.iter().filter(|row| !began.contains(row)) {
        while world.bench.view(*row).status != Status::Sent {
            world.pass(MILLISECOND).await;
        }
        let history = world.bench.view(*row).history;
        let at = |status| history.iter().rfind(|step| step.status == status).unwrap().at;
        assert!(at(Status::Sent).since(at(Status::Sending)) <= Duration::from_secs(5), "{history:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_everything_leaves_once() {
    let world = World::open().await;
    let (id, number) = world.create_at("shop", rate(1000.0)).await;
    let mut all = rows(&world, &id, 30).await;
    world.connect(&id, number).await;
    for again in 0..30 {
        all.push(world.send_to(&id, &format!("57300{:07}", again % 7), Class::Transactional).await);
        all.push(world.send_to(&id, &format!("57300{:07}", again % 5), Class::Bulk).await);
        world.pass(MILLISECOND).await;
    }
    while standing(&world, &all, Status::Sent) < all.len() {
        assert!(sent(&world).len() <= all.len(), "one left twice");
        world.pass(MILLISECOND).await;
    }
    let left: HashSet<_> = sent(&world).into_iter().collect();
    assert_eq!((left.len(), sent(&world).len()), (all.len(), all.len()));
}
