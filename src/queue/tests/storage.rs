//! Histories that random ones reach too seldom, on the storage functions.

use std::time::Duration;

use crate::events::{self, Event};
use crate::queue::accept::EnqueueContext;
use crate::queue::records::LedgerEntry;
use crate::queue::retention::RetentionPage;
use crate::queue::{
    Acceptance, IdempotencyKey, Lease, LeaseBatch, Submission, accept, dead_letters, dispatch, retention,
    settle,
};
use relevo_domain::{
    AmbiguousPolicy, BuryReason, Class, Content, Failure, InstanceNumber, MessageId, MessageOptions, Mode,
    OutboundMessage, RetryDecision, Status, Timestamp,
};
use relevo_store::{Space, TestStore};

const ONE: InstanceNumber = InstanceNumber::FIRST;
const START: Timestamp = Timestamp(1_763_800_000_000);

/// A message to one of many recipients.
fn message_to(recipient: usize, class: Class) -> Submission {
    Submission {
        instance: ONE,
        message: OutboundMessage {
            to: format!("57300{recipient:07}").parse().unwrap(),
            content: Content::Text { body: "hola".to_owned(), preview_url: false },
            quote: None,
            options: MessageOptions::default(),
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

fn transactional(recipient: usize) -> Submission {
    message_to(recipient, Class::Transactional)
}

fn accept_message(scratch: &TestStore, submission: Submission, now: Timestamp) -> MessageId {
    let terms = EnqueueContext {
        now,
        capacity: u64::MAX,
        idempotency_expires: now + Duration::from_secs(60),
        random: 1,
    };
    let accepted = scratch.write(|tx| accept::accept(tx, submission, terms)).unwrap();
    let Ok(Acceptance::New(id)) = accepted else { panic!("{accepted:?}") };
    id
}

fn search_leases(scratch: &TestStore, max: usize, now: Timestamp) -> dispatch::LeaseResult {
    let request = dispatch::LeaseRequest { instance: ONE, max, max_bulk: max, now, run: 1 };
    scratch.write(|tx| dispatch::lease(tx, request)).unwrap()
}

fn lease(scratch: &TestStore, max: usize, now: Timestamp) -> LeaseBatch {
    search_leases(scratch, max, now).batch
}

fn lease_one(scratch: &TestStore, now: Timestamp) -> Lease {
    let leases = lease(scratch, 1, now).leases;
    assert_eq!(leases.len(), 1);
    leases.into_iter().next().unwrap()
}

fn settle_sent(scratch: &TestStore, lease: &Lease, now: Timestamp) {
    let provider_id = format!("wamid.{}", lease.id).parse().unwrap();
    scratch.write(|tx| settle::record_sent(tx, lease, &provider_id, now)).unwrap().unwrap();
}

fn retry(scratch: &TestStore, lease: &Lease, after: Duration, now: Timestamp) {
    let (verdict, failure) =
        (RetryDecision::Retry { after, counted: true }, Failure::transient("x".repeat(500)));
    scratch.write(|tx| settle::apply_decision(tx, lease, verdict, &failure, now)).unwrap();
}

fn count(scratch: &TestStore, space: Space) -> usize {
    scratch.entries().iter().filter(|(key, _)| key[0] == space as u8).count()
}

#[test]
fn retry_delay_outlasts_wake_ups_of_deleted_jobs() {
    let scratch = TestStore::new();
    let [first, second, third] =
        [0, 0, 0].map(|recipient| accept_message(&scratch, transactional(recipient), START));
    let lease = lease_one(&scratch, START);
    assert_eq!((lease.id, search_leases(&scratch, 9, START).batch.leases.len()), (first, 0));
    settle_sent(&scratch, &lease, START);
    let later = START + Duration::from_millis(5);
    // The lane was woken for the second; withdrawing it wakes the lane for the third, at another moment.
    assert!(scratch.write(|tx| accept::withdraw(tx, second, later)).unwrap());
    let lease = lease_one(&scratch, later);
    assert_eq!(lease.id, third);
    retry(&scratch, &lease, Duration::from_secs(300), later);
    let looked = search_leases(&scratch, 9, later + Duration::from_secs(299)).batch;
    assert_eq!((looked.leases.len(), looked.next_due), (0, Some(later + Duration::from_secs(300))));
    assert_eq!(lease_one(&scratch, later + Duration::from_secs(300)).id, third);
}

#[test]
fn scheduled_message_is_withdrawn_before_the_cursor_reaches_it() {
    let scratch = TestStore::new();
    accept_message(&scratch, transactional(0), START);
    let send_at = Some(START + Duration::from_secs(1));
    let scheduled = accept_message(&scratch, Submission { send_at, ..transactional(0) }, START);
    let later = START + Duration::from_secs(1);
    // It comes back into its lane, and goes first; the one arrival before it is still unread.
    let lease = lease_one(&scratch, later);
    assert_eq!(lease.id, scheduled);
    retry(&scratch, &lease, Duration::from_secs(60), later);
    assert!(scratch.write(|tx| accept::withdraw(tx, scheduled, later)).unwrap());
    assert_eq!(count(&scratch, Space::Lane) + count(&scratch, Space::Wake), 0);
    assert_eq!(search_leases(&scratch, 9, later).batch.leases.len(), 1);
}

#[test]
fn redriven_message_gets_all_attempts_again() {
    let scratch = TestStore::new();
    let id = accept_message(&scratch, Submission { mode: Mode::Sync, ..transactional(0) }, START);
    retry(&scratch, &lease_one(&scratch, START), Duration::ZERO, START);
    let lease = lease_one(&scratch, START);
    assert_eq!((lease.attempt, lease.failures), (2, 1));
    let (bury, failure) = (RetryDecision::Bury(BuryReason::Exhausted), Failure::transient("no"));
    scratch.write(|tx| settle::apply_decision(tx, &lease, bury, &failure, START)).unwrap();
    assert_eq!(scratch.write(|tx| dead_letters::redrive(tx, &[id, id], START)).unwrap(), 1);
    let lease = lease_one(&scratch, START);
    assert_eq!((lease.id, lease.attempt, lease.failures, lease.mode), (id, 3, 0, Mode::Async));
}

#[test]
fn busy_lanes_do_not_starve_new_recipients() {
    let scratch = TestStore::new();
    for recipient in (0..3).cycle().take(300) {
        accept_message(&scratch, transactional(recipient), START);
    }
    // A look with a worker to spare moves the backlog into its lanes.
    let mut busy = lease(&scratch, 4, START).leases;
    assert_eq!(busy.len(), 3);
    let (mut now, mut newcomer) = (START + Duration::from_secs(1), None);
    for turn in 0..20 {
        if turn == 5 {
            newcomer = Some(accept_message(&scratch, transactional(77), now));
        }
        settle_sent(&scratch, &busy.remove(0), now);
        now = now + Duration::from_millis(10);
        busy.push(lease_one(&scratch, now));
        if busy.iter().any(|lease| Some(lease.id) == newcomer) {
            return;
        }
    }
    panic!("a new recipient waits for the backlog of others");
}

#[test]
fn no_class_starves() {
    let scratch = TestStore::new();
    for recipient in 0..60 {
        accept_message(&scratch, message_to(recipient, Class::Bulk), START);
        accept_message(&scratch, transactional(recipient), START);
    }
    let order: Vec<_> = (0..50).map(|_| lease_one(&scratch, START).id.class()).collect();
    for turns in order.chunks(5) {
        assert_eq!(turns.iter().filter(|class| **class == Class::Bulk).count(), 1, "{order:?}");
    }
    assert_eq!(order[0], Class::Transactional);
}

#[test]
fn long_lane_is_leased_in_order_and_in_pages() {
    let scratch = TestStore::new();
    let mut ids: Vec<_> = (0..1_300).map(|_| accept_message(&scratch, transactional(0), START)).collect();
    let last = accept_message(&scratch, transactional(1), START);
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
        settle_sent(&scratch, &lease, START);
    }
}

#[test]
fn expired_messages_are_deleted_in_pages() {
    let scratch = TestStore::new();
    let first = accept_message(&scratch, transactional(0), START);
    for _ in 0..1_200 {
        let expires_at = Some(START + Duration::from_secs(1));
        accept_message(&scratch, Submission { expires_at, ..transactional(0) }, START);
    }
    let fresh = accept_message(&scratch, transactional(0), START);
    let lease = lease_one(&scratch, START);
    assert_eq!(lease.id, first);
    while search_finds_no_lease(&scratch, START) {}
    let late = START + Duration::from_secs(2);
    settle_sent(&scratch, &lease, late);
    let (mut expired, mut looks) = (0, 0);
    let next = loop {
        let found = search_leases(&scratch, 1, late);
        (expired, looks) = (expired + found.expired.len(), looks + 1);
        assert!(found.expired.len() <= 512);
        if let Some(lease) = found.batch.leases.into_iter().next() {
            break lease;
        }
        assert_eq!(found.batch.next_due, Some(late), "there is more to look at");
    };
    assert_eq!((next.id, expired), (fresh, 1_200));
    assert!(looks > 2);
}

/// Looks for work that is not there; `true` while arrivals are left that did not join their lanes.
fn search_finds_no_lease(scratch: &TestStore, now: Timestamp) -> bool {
    let found = search_leases(scratch, 1, now).batch;
    assert!(found.leases.is_empty());
    found.next_due == Some(now)
}

#[test]
fn message_ids_grow_within_one_millisecond_and_when_the_clock_steps_back() {
    let scratch = TestStore::new();
    let mut ids: Vec<_> =
        (0..4_200).map(|recipient| accept_message(&scratch, transactional(recipient), START)).collect();
    for step in [3_600_000, 5, 1] {
        ids.push(accept_message(
            &scratch,
            transactional(9_000 + step),
            START - Duration::from_millis(step as u64),
        ));
    }
    assert!(ids.is_sorted_by(|a, b| a < b));
    let leases = lease(&scratch, 5_000, START).leases;
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), ids);
}

#[test]
fn long_history_is_elided() {
    let scratch = TestStore::new();
    let id = accept_message(&scratch, transactional(0), START);
    for _ in 0..100 {
        let lease = lease_one(&scratch, START);
        retry(&scratch, &lease, Duration::ZERO, START);
    }
    settle_sent(&scratch, &lease_one(&scratch, START), START);
    let row = scratch.write(|tx| LedgerEntry::read(tx, id)).unwrap().unwrap();
    assert_eq!((row.status, row.attempts, row.failures), (Status::Sent, 101, 100));
    assert_eq!(row.history.len() + usize::try_from(row.elided).unwrap(), 202);
    assert_eq!(row.history[0].status, Status::Sending);
}

#[test]
fn large_body_is_deleted_with_all_its_parts() {
    let scratch = TestStore::new();
    let mut submission = transactional(0);
    submission.message.content = Content::Text { body: "ñ".repeat(100_000), preview_url: false };
    let message = submission.message.clone();
    accept_message(&scratch, submission, START);
    assert!(count(&scratch, Space::Part) > 40);
    let lease = lease_one(&scratch, START);
    assert_eq!(lease.message, message);
    settle_sent(&scratch, &lease, START);
    assert_eq!((count(&scratch, Space::Part), count(&scratch, Space::Job)), (0, 0));
}

#[test]
fn retention_deletes_everything_old_in_few_pages() {
    for (keys, events) in [(1_300, 3), (3, 1_300)] {
        let scratch = TestStore::new();
        for n in 0..keys as u64 {
            let key = [n.to_be_bytes(), [0; 8]].concat().try_into().unwrap();
            let idempotency = Some(IdempotencyKey { key, body: [0; 16] });
            accept_message(&scratch, Submission { idempotency, ..transactional(0) }, START);
        }
        for _ in 0..events {
            let event =
                Event { kind: relevo_domain::EventKind::Raw, at: START, data: serde_json::Value::Null };
            scratch.write(|tx| events::append(tx, ONE, &event)).unwrap();
        }
        let pages = run_retention(&scratch, START + Duration::from_secs(120));
        let spaces = [Space::Idempotency, Space::IdempotencyExpiry, Space::Event];
        let left = spaces.map(|space| count(&scratch, space));
        assert_eq!(left, [0, 0, 0], "after {pages} pages");
        assert!((3..6).contains(&pages), "{pages} pages");
    }
}

/// Runs upkeep to its end; tells how many pages that took.
fn run_retention(scratch: &TestStore, now: Timestamp) -> usize {
    let (mut from, mut pages) = (None, 0);
    loop {
        let page = RetentionPage {
            event_log_size: u64::MAX,
            now,
            ledger_before: Timestamp(0),
            events_before: now,
            from,
        };
        from = scratch.write(|tx| retention::delete_page(tx, &page)).unwrap();
        pages += 1;
        if from.is_none() {
            return pages;
        }
    }
}
