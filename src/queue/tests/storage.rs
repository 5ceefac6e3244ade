//! Histories that random ones reach too seldom, on the storage functions.

use std::time::Duration;

use crate::events::{self, Event};
use crate::queue::accept::Terms;
use crate::queue::record::Row;
use crate::queue::upkeep::Upkeep;
use crate::queue::{
    Accepted, IdempotencyKey, Lease, Leased, Submission, accept, dead, dispatch, settle, upkeep,
};
use relevo_domain::{
    AmbiguousPolicy, BuryReason, Class, Content, Failure, InstanceNumber, Manner, MessageId, Mode,
    OutboundMessage, Status, Timestamp, Verdict,
};
use relevo_store::{Scratch, Space};

const ONE: InstanceNumber = InstanceNumber::FIRST;
const START: Timestamp = Timestamp(1_763_800_000_000);

/// A message to one of many recipients.
fn to(recipient: usize, class: Class) -> Submission {
    Submission {
        instance: ONE,
        message: OutboundMessage {
            to: format!("57300{recipient:07}").parse().unwrap(),
            content: Content::Text { body: "hola".to_owned(), preview_url: false },
            quote: None,
            manner: Manner::default(),
        },
        class,
        mode: Mode::Async,
        idempotency: None,
        expires_at: None,
        send_at: None,
        on_ambiguous: AmbiguousPolicy::Hold,
        repeatable: false,
        item: None,
    }
}

fn plain(recipient: usize) -> Submission {
    to(recipient, Class::Transactional)
}

fn take_in(scratch: &Scratch, submission: Submission, now: Timestamp) -> MessageId {
    let terms =
        Terms { now, capacity: u64::MAX, idempotency_expires: now + Duration::from_secs(60), random: 1 };
    let accepted = scratch.write(|tx| accept::accept(tx, submission, terms)).unwrap();
    let Ok(Accepted::New(id)) = accepted else { panic!("{accepted:?}") };
    id
}

fn find_work(scratch: &Scratch, max: usize, now: Timestamp) -> dispatch::Found {
    let request = dispatch::Request { instance: ONE, max, max_bulk: max, now, run: 1 };
    scratch.write(|tx| dispatch::lease(tx, request)).unwrap()
}

fn lease(scratch: &Scratch, max: usize, now: Timestamp) -> Leased {
    find_work(scratch, max, now).leased
}

fn lease_one(scratch: &Scratch, now: Timestamp) -> Lease {
    let leases = lease(scratch, 1, now).leases;
    assert_eq!(leases.len(), 1);
    leases.into_iter().next().unwrap()
}

fn sent(scratch: &Scratch, lease: &Lease, now: Timestamp) {
    let provider_id = format!("wamid.{}", lease.id).parse().unwrap();
    scratch.write(|tx| settle::sent(tx, lease, &provider_id, now)).unwrap().unwrap();
}

fn retry(scratch: &Scratch, lease: &Lease, after: Duration, now: Timestamp) {
    let (verdict, failure) = (Verdict::Retry { after, counted: true }, Failure::transient("x".repeat(500)));
    scratch.write(|tx| settle::judged(tx, lease, verdict, &failure, now)).unwrap();
}

fn count(scratch: &Scratch, space: Space) -> usize {
    scratch.entries().iter().filter(|(key, _)| key[0] == space as u8).count()
}

#[test]
fn a_pause_outlasts_wake_ups_of_jobs_that_are_gone() {
    let scratch = Scratch::new();
    let [first, second, third] = [0, 0, 0].map(|recipient| take_in(&scratch, plain(recipient), START));
    let lease = lease_one(&scratch, START);
    assert_eq!((lease.id, find_work(&scratch, 9, START).leased.leases.len()), (first, 0));
    sent(&scratch, &lease, START);
    let later = START + Duration::from_millis(5);
    // The lane was woken for the second; withdrawing it wakes the lane for the third, at another moment.
    assert!(scratch.write(|tx| accept::withdraw(tx, second, later)).unwrap());
    let lease = lease_one(&scratch, later);
    assert_eq!(lease.id, third);
    retry(&scratch, &lease, Duration::from_secs(300), later);
    let looked = find_work(&scratch, 9, later + Duration::from_secs(299)).leased;
    assert_eq!((looked.leases.len(), looked.next_due), (0, Some(later + Duration::from_secs(300))));
    assert_eq!(lease_one(&scratch, later + Duration::from_secs(300)).id, third);
}

#[test]
fn a_scheduled_message_leaves_its_lane_before_its_id_was_read() {
    let scratch = Scratch::new();
    take_in(&scratch, plain(0), START);
    let send_at = Some(START + Duration::from_secs(1));
    let scheduled = take_in(&scratch, Submission { send_at, ..plain(0) }, START);
    let later = START + Duration::from_secs(1);
    // It comes back into its lane, and goes first; the one arrival before it is still unread.
    let lease = lease_one(&scratch, later);
    assert_eq!(lease.id, scheduled);
    retry(&scratch, &lease, Duration::from_secs(60), later);
    assert!(scratch.write(|tx| accept::withdraw(tx, scheduled, later)).unwrap());
    assert_eq!(count(&scratch, Space::Lane) + count(&scratch, Space::Wake), 0);
    assert_eq!(find_work(&scratch, 9, later).leased.leases.len(), 1);
}

#[test]
fn a_redriven_message_has_all_its_attempts_before_it() {
    let scratch = Scratch::new();
    let id = take_in(&scratch, Submission { mode: Mode::Sync, ..plain(0) }, START);
    retry(&scratch, &lease_one(&scratch, START), Duration::ZERO, START);
    let lease = lease_one(&scratch, START);
    assert_eq!((lease.attempt, lease.failures), (2, 1));
    let (bury, failure) = (Verdict::Bury(BuryReason::Exhausted), Failure::transient("no"));
    scratch.write(|tx| settle::judged(tx, &lease, bury, &failure, START)).unwrap();
    assert_eq!(scratch.write(|tx| dead::redrive(tx, &[id, id], START)).unwrap(), 1);
    let lease = lease_one(&scratch, START);
    assert_eq!((lease.id, lease.attempt, lease.failures, lease.mode), (id, 3, 0, Mode::Async));
}

#[test]
fn busy_lanes_leave_room_for_new_recipients() {
    let scratch = Scratch::new();
    for recipient in (0..3).cycle().take(300) {
        take_in(&scratch, plain(recipient), START);
    }
    // A look with a worker to spare moves the backlog into its lanes.
    let mut busy = lease(&scratch, 4, START).leases;
    assert_eq!(busy.len(), 3);
    let (mut now, mut newcomer) = (START + Duration::from_secs(1), None);
    for turn in 0..20 {
        if turn == 5 {
            newcomer = Some(take_in(&scratch, plain(77), now));
        }
        sent(&scratch, &busy.remove(0), now);
        now = now + Duration::from_millis(10);
        busy.push(lease_one(&scratch, now));
        if busy.iter().any(|lease| Some(lease.id) == newcomer) {
            return;
        }
    }
    panic!("a new recipient waits for the backlog of others");
}

#[test]
fn neither_class_starves() {
    let scratch = Scratch::new();
    for recipient in 0..60 {
        take_in(&scratch, to(recipient, Class::Bulk), START);
        take_in(&scratch, plain(recipient), START);
    }
    let order: Vec<_> = (0..50).map(|_| lease_one(&scratch, START).id.class()).collect();
    for turns in order.chunks(5) {
        assert_eq!(turns.iter().filter(|class| **class == Class::Bulk).count(), 1, "{order:?}");
    }
    assert_eq!(order[0], Class::Transactional);
}

#[test]
fn a_long_lane_is_worked_off_in_order_and_in_portions() {
    let scratch = Scratch::new();
    let mut ids: Vec<_> = (0..1_300).map(|_| take_in(&scratch, plain(0), START)).collect();
    let last = take_in(&scratch, plain(1), START);
    let mut leases = lease(&scratch, 2, START).leases;
    assert_eq!(leases.len(), 1, "one lane, one lease");
    let mut looks = 0;
    while leases.len() < 2 {
        let found = lease(&scratch, 1, START);
        assert!(found.next_due == Some(START) || !found.leases.is_empty(), "there is more to look at");
        leases.extend(found.leases);
        looks += 1;
    }
    assert!(looks > 1, "no single look moves everything");
    assert_eq!(leases.pop().unwrap().id, last);
    ids.reverse();
    while let Some(id) = ids.pop() {
        let lease = leases.pop().unwrap_or_else(|| lease_one(&scratch, START));
        assert_eq!(lease.id, id);
        sent(&scratch, &lease, START);
    }
}

#[test]
fn old_messages_are_cleared_away_in_portions() {
    let scratch = Scratch::new();
    let first = take_in(&scratch, plain(0), START);
    for _ in 0..1_200 {
        let expires_at = Some(START + Duration::from_secs(1));
        take_in(&scratch, Submission { expires_at, ..plain(0) }, START);
    }
    let fresh = take_in(&scratch, plain(0), START);
    let lease = lease_one(&scratch, START);
    assert_eq!(lease.id, first);
    while find_nothing(&scratch, START) {}
    let late = START + Duration::from_secs(2);
    sent(&scratch, &lease, late);
    let (mut expired, mut looks) = (0, 0);
    let next = loop {
        let found = find_work(&scratch, 1, late);
        (expired, looks) = (expired + found.expired.len(), looks + 1);
        assert!(found.expired.len() <= 512);
        if let Some(lease) = found.leased.leases.into_iter().next() {
            break lease;
        }
        assert_eq!(found.leased.next_due, Some(late), "there is more to look at");
    };
    assert_eq!((next.id, expired), (fresh, 1_200));
    assert!(looks > 2);
}

/// Looks for work that is not there; `true` while arrivals are left that did not join their lanes.
fn find_nothing(scratch: &Scratch, now: Timestamp) -> bool {
    let found = find_work(scratch, 1, now).leased;
    assert!(found.leases.is_empty());
    found.next_due == Some(now)
}

#[test]
fn ids_grow_through_crowded_milliseconds_and_clocks_that_step_back() {
    let scratch = Scratch::new();
    let mut ids: Vec<_> = (0..4_200).map(|recipient| take_in(&scratch, plain(recipient), START)).collect();
    for step in [3_600_000, 5, 1] {
        ids.push(take_in(&scratch, plain(9_000 + step), START - Duration::from_millis(step as u64)));
    }
    assert!(ids.is_sorted_by(|a, b| a < b));
    let leases = lease(&scratch, 5_000, START).leases;
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), ids);
}

#[test]
fn a_long_history_stays_small() {
    let scratch = Scratch::new();
    let id = take_in(&scratch, plain(0), START);
    for _ in 0..100 {
        let lease = lease_one(&scratch, START);
        retry(&scratch, &lease, Duration::ZERO, START);
    }
    sent(&scratch, &lease_one(&scratch, START), START);
    let row = scratch.write(|tx| Row::read(tx, id)).unwrap().unwrap();
    assert_eq!((row.status, row.attempts, row.failures), (Status::Sent, 101, 100));
    assert_eq!(row.history.len() + usize::try_from(row.elided).unwrap(), 202);
    assert_eq!(row.history[0].status, Status::Sending);
}

#[test]
fn a_body_of_many_parts_leaves_none_behind() {
    let scratch = Scratch::new();
    let mut submission = plain(0);
    submission.message.content = Content::Text { body: "ñ".repeat(100_000), preview_url: false };
    let message = submission.message.clone();
    take_in(&scratch, submission, START);
    assert!(count(&scratch, Space::Part) > 40);
    let lease = lease_one(&scratch, START);
    assert_eq!(lease.message, message);
    sent(&scratch, &lease, START);
    assert_eq!((count(&scratch, Space::Part), count(&scratch, Space::Job)), (0, 0));
}

#[test]
fn upkeep_keeps_up() {
    for (keys, events) in [(1_300, 3), (3, 1_300)] {
        let scratch = Scratch::new();
        for n in 0..keys as u64 {
            let key = [n.to_be_bytes(), [0; 8]].concat().try_into().unwrap();
            let idempotency = Some(IdempotencyKey { key, body: [0; 16] });
            take_in(&scratch, Submission { idempotency, ..plain(0) }, START);
        }
        for _ in 0..events {
            let event = Event { kind: "raw".to_owned(), at: START, data: serde_json::Value::Null };
            scratch.write(|tx| events::append(tx, ONE, &event)).unwrap();
        }
        let pages = keep_up(&scratch, START + Duration::from_secs(120));
        let spaces = [Space::Idempotency, Space::IdempotencyExpiry, Space::Event];
        let left = spaces.map(|space| count(&scratch, space));
        assert_eq!(left, [0, 0, 0], "after {pages} pages");
        assert!((3..6).contains(&pages), "{pages} pages");
    }
}

/// Runs upkeep to its end; tells how many pages that took.
fn keep_up(scratch: &Scratch, now: Timestamp) -> usize {
    let (mut from, mut pages) = (None, 0);
    loop {
        let page =
            Upkeep { event_log_size: u64::MAX, now, ledger_before: Timestamp(0), events_before: now, from };
        from = scratch.write(|tx| upkeep::page(tx, &page)).unwrap();
        pages += 1;
        if from.is_none() {
            return pages;
        }
    }
}
