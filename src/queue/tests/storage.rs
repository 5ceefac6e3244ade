//! Tests of the storage functions with histories that random ones rarely reach.

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
    AmbiguousPolicy, BuryReason, Class, Content, EventKind, Failure, InstanceNumber, MessageId,
    MessageOptions, Mode, OutboundMessage, RetryDecision, Status, Timestamp,
};
use relevo_store::{InstanceEntries, Key, Space, TestStore};

const ONE: InstanceNumber = InstanceNumber::FIRST;
const START: Timestamp = Timestamp(1_763_800_000_000);

/// A message to a recipient.
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

fn accept_message(store: &TestStore, submission: Submission, now: Timestamp) -> MessageId {
    let context = EnqueueContext {
        now,
        capacity: u64::MAX,
        idempotency_expires: now + Duration::from_secs(60),
        random: 1,
    };
    let accepted = store.write(|tx| accept::accept(tx, submission, context)).unwrap();
    let Ok(Acceptance::New(id)) = accepted else { panic!("{accepted:?}") };
    id
}

fn search_leases(store: &TestStore, max: usize, now: Timestamp) -> dispatch::LeaseResult {
    let request = dispatch::LeaseRequest { instance: ONE, max, max_bulk: max, now, expiry_time: now, run: 1 };
    store.write(|tx| dispatch::lease(tx, request)).unwrap()
}

fn lease(store: &TestStore, max: usize, now: Timestamp) -> LeaseBatch {
    search_leases(store, max, now).batch
}

fn lease_one(store: &TestStore, now: Timestamp) -> Lease {
    let leases = lease(store, 1, now).leases;
    assert_eq!(leases.len(), 1);
    leases.into_iter().next().unwrap()
}

fn settle_sent(store: &TestStore, lease: &Lease, now: Timestamp) {
    let provider_id = format!("wamid.{}", lease.id).parse().unwrap();
    store.write(|tx| settle::record_sent(tx, lease, &provider_id, now)).unwrap().unwrap();
}

fn retry(store: &TestStore, lease: &Lease, after: Duration, now: Timestamp) {
    let (decision, failure) =
        (RetryDecision::Retry { after, counted: true }, Failure::transient("x".repeat(500)));
    store.write(|tx| settle::apply_decision(tx, lease, decision, &failure, now)).unwrap();
}

fn count(store: &TestStore, space: Space) -> usize {
    store.entries().iter().filter(|(key, _)| key[0] == space as u8).count()
}

#[test]
fn retry_delay_outlasts_wake_ups_of_deleted_jobs() {
    let store = TestStore::new();
    let [first, second, third] =
        [0, 0, 0].map(|recipient| accept_message(&store, transactional(recipient), START));
    let lease = lease_one(&store, START);
    assert_eq!((lease.id, search_leases(&store, 9, START).batch.leases.len()), (first, 0));
    settle_sent(&store, &lease, START);
    let later = START + Duration::from_millis(5);
    // The lane has a wake-up for the second message; withdrawing it adds another one for the third, at another time.
    assert!(store.write(|tx| accept::withdraw(tx, second, later)).unwrap());
    let lease = lease_one(&store, later);
    assert_eq!(lease.id, third);
    retry(&store, &lease, Duration::from_secs(300), later);
    let found = search_leases(&store, 9, later + Duration::from_secs(299)).batch;
    assert_eq!((found.leases.len(), found.next_due), (0, Some(later + Duration::from_secs(300))));
    assert_eq!(lease_one(&store, later + Duration::from_secs(300)).id, third);
}

#[test]
fn scheduled_message_is_withdrawn_before_the_cursor_reaches_it() {
    let store = TestStore::new();
    accept_message(&store, transactional(0), START);
    let send_at = Some(START + Duration::from_secs(1));
    let scheduled = accept_message(&store, Submission { send_at, ..transactional(0) }, START);
    let later = START + Duration::from_secs(1);
    // The scheduled message returns to its lane and is leased first; the earlier arrival is still unread.
    let lease = lease_one(&store, later);
    assert_eq!(lease.id, scheduled);
    retry(&store, &lease, Duration::from_secs(60), later);
    assert!(store.write(|tx| accept::withdraw(tx, scheduled, later)).unwrap());
    assert_eq!(count(&store, Space::Lane) + count(&store, Space::Wake), 0);
    assert_eq!(search_leases(&store, 9, later).batch.leases.len(), 1);
}

#[test]
fn redriven_message_gets_all_attempts_again() {
    let store = TestStore::new();
    let id = accept_message(&store, Submission { mode: Mode::Sync, ..transactional(0) }, START);
    retry(&store, &lease_one(&store, START), Duration::ZERO, START);
    let lease = lease_one(&store, START);
    assert_eq!((lease.attempt, lease.failures), (2, 1));
    let (bury, failure) = (RetryDecision::Bury(BuryReason::Exhausted), Failure::transient("no"));
    store.write(|tx| settle::apply_decision(tx, &lease, bury, &failure, START)).unwrap();
    assert_eq!(store.write(|tx| dead_letters::redrive(tx, &[id, id], START)).unwrap(), 1);
    let lease = lease_one(&store, START);
    assert_eq!((lease.id, lease.attempt, lease.failures, lease.mode), (id, 3, 0, Mode::Async));
}

#[test]
fn busy_lanes_do_not_starve_new_recipients() {
    let store = TestStore::new();
    for recipient in (0..3).cycle().take(300) {
        accept_message(&store, transactional(recipient), START);
    }
    // A request for more leases than there are lanes moves the backlog into its lanes.
    let mut busy = lease(&store, 4, START).leases;
    assert_eq!(busy.len(), 3);
    let (mut now, mut newcomer) = (START + Duration::from_secs(1), None);
    for turn in 0..20 {
        if turn == 5 {
            newcomer = Some(accept_message(&store, transactional(77), now));
        }
        settle_sent(&store, &busy.remove(0), now);
        now = now + Duration::from_millis(10);
        busy.push(lease_one(&store, now));
        if busy.iter().any(|lease| Some(lease.id) == newcomer) {
            return;
        }
    }
    panic!("busy lanes starve a new recipient");
}

#[test]
fn no_class_starves() {
    let store = TestStore::new();
    for recipient in 0..60 {
        accept_message(&store, message_to(recipient, Class::Bulk), START);
        accept_message(&store, transactional(recipient), START);
    }
    let order: Vec<_> = (0..50).map(|_| lease_one(&store, START).id.class()).collect();
    for turns in order.chunks(5) {
        assert_eq!(turns.iter().filter(|class| **class == Class::Bulk).count(), 1, "{order:?}");
    }
    assert_eq!(order[0], Class::Transactional);
}

#[test]
fn long_lane_is_leased_in_order_and_in_pages() {
    let store = TestStore::new();
    let mut ids: Vec<_> = (0..1_300).map(|_| accept_message(&store, transactional(0), START)).collect();
    let last = accept_message(&store, transactional(1), START);
    let mut leases = lease(&store, 2, START).leases;
    assert_eq!(leases.len(), 1, "one lane has one lease");
    let mut requests = 0;
    while leases.len() < 2 {
        let found = lease(&store, 1, START);
        assert!(
            found.next_due == Some(START) || !found.leases.is_empty(),
            "the request is incomplete, so it is due again at once"
        );
        leases.extend(found.leases);
        requests += 1;
    }
    assert!(requests > 1, "one request moved all messages");
    assert_eq!(leases.pop().unwrap().id, last);
    ids.reverse();
    while let Some(id) = ids.pop() {
        let lease = leases.pop().unwrap_or_else(|| lease_one(&store, START));
        assert_eq!(lease.id, id);
        settle_sent(&store, &lease, START);
    }
}

#[test]
fn expired_messages_are_deleted_in_pages() {
    let store = TestStore::new();
    let first = accept_message(&store, transactional(0), START);
    for _ in 0..1_200 {
        let expires_at = Some(START + Duration::from_secs(1));
        accept_message(&store, Submission { expires_at, ..transactional(0) }, START);
    }
    let fresh = accept_message(&store, transactional(0), START);
    let lease = lease_one(&store, START);
    assert_eq!(lease.id, first);
    while search_finds_no_lease(&store, START) {}
    let late = START + Duration::from_secs(2);
    settle_sent(&store, &lease, late);
    let (mut expired, mut requests) = (0, 0);
    let next = loop {
        let found = search_leases(&store, 1, late);
        (expired, requests) = (expired + found.expired.len(), requests + 1);
        assert!(found.expired.len() <= 512);
        if let Some(lease) = found.batch.leases.into_iter().next() {
            break lease;
        }
        assert_eq!(found.batch.next_due, Some(late), "the request is incomplete, so it is due again at once");
    };
    assert_eq!((next.id, expired), (fresh, 1_200));
    assert!(requests > 2);
}

/// Requests a lease when none is possible. Returns `true` while arrivals are left that are not in their lanes.
fn search_finds_no_lease(store: &TestStore, now: Timestamp) -> bool {
    let found = search_leases(store, 1, now).batch;
    assert!(found.leases.is_empty());
    found.next_due == Some(now)
}

#[test]
fn message_ids_grow_within_one_millisecond_and_when_the_clock_steps_back() {
    let store = TestStore::new();
    let mut ids: Vec<_> =
        (0..4_200).map(|recipient| accept_message(&store, transactional(recipient), START)).collect();
    for step in [3_600_000, 5, 1] {
        ids.push(accept_message(
            &store,
            transactional(9_000 + step),
            START - Duration::from_millis(step as u64),
        ));
    }
    assert!(ids.is_sorted_by(|a, b| a < b));
    let leases = lease(&store, 5_000, START).leases;
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), ids);
}

#[test]
fn long_history_is_elided() {
    let store = TestStore::new();
    let id = accept_message(&store, transactional(0), START);
    for _ in 0..100 {
        let lease = lease_one(&store, START);
        retry(&store, &lease, Duration::ZERO, START);
    }
    settle_sent(&store, &lease_one(&store, START), START);
    let entry = store.write(|tx| LedgerEntry::read(tx, id)).unwrap().unwrap();
    assert_eq!((entry.status, entry.attempts, entry.failures), (Status::Sent, 101, 100));
    assert_eq!(entry.history.len() + usize::try_from(entry.elided).unwrap(), 202);
    assert_eq!(entry.history[0].status, Status::Sending);
}

#[test]
fn large_body_is_deleted_with_all_its_parts() {
    let store = TestStore::new();
    let mut submission = transactional(0);
    submission.message.content = Content::Text { body: "ñ".repeat(100_000), preview_url: false };
    let message = submission.message.clone();
    accept_message(&store, submission, START);
    assert!(count(&store, Space::Part) > 40);
    let lease = lease_one(&store, START);
    assert_eq!(lease.message, message);
    settle_sent(&store, &lease, START);
    assert_eq!((count(&store, Space::Part), count(&store, Space::Job)), (0, 0));
}

#[test]
fn retention_deletes_everything_old_in_few_pages() {
    for (keys, events) in [(1_300, 3), (3, 1_300)] {
        let store = TestStore::new();
        for n in 0..keys as u64 {
            let key = [n.to_be_bytes(), [0; 8]].concat().try_into().unwrap();
            let idempotency = Some(IdempotencyKey { key, body: [0; 16] });
            accept_message(&store, Submission { idempotency, ..transactional(0) }, START);
        }
        for _ in 0..events {
            let event = Event { kind: EventKind::Raw, at: START, data: serde_json::Value::Null };
            store.write(|tx| events::append(tx, ONE, &event)).unwrap();
        }
        let pages = run_retention(&store, START + Duration::from_secs(120));
        let spaces = [Space::Idempotency, Space::IdempotencyExpiry, Space::Event];
        let left = spaces.map(|space| count(&store, space));
        assert_eq!(left, [0, 0, 0], "after {pages} pages");
        assert!((3..6).contains(&pages), "{pages} pages");
    }
}

/// Runs retention until nothing is left. Returns the number of pages.
fn run_retention(store: &TestStore, now: Timestamp) -> usize {
    let (mut from, mut pages) = (None, 0);
    loop {
        let page = RetentionPage {
            event_log_size: u64::MAX,
            now,
            ledger_before: Timestamp(0),
            events_before: now,
            from,
        };
        from = store.write(|tx| retention::delete_page(tx, &page)).unwrap();
        pages += 1;
        if from.is_none() {
            return pages;
        }
    }
}

#[test]
fn purge_deletes_the_entries_of_one_instance_in_each_space_that_is_purged() {
    let store = TestStore::new();
    let two = ONE.next().unwrap();
    let key = |space, instance: InstanceNumber| Key::new(space).u32(instance.get()).u64(7);
    let put = |tx: &mut relevo_store::Tx<'_>| {
        let all = Space::ALL.iter().flat_map(|&space| [key(space, ONE), key(space, two)]);
        all.into_iter().try_for_each(|key| tx.put(key, Vec::new()))
    };
    store.write(put).unwrap();
    while store.write(|tx| retention::purge(tx, ONE, START)).unwrap() {}
    for &space in Space::ALL {
        let is_stored = |instance| store.write(|tx| tx.contains(&key(space, instance))).unwrap();
        let is_purged = space.instance_entries() == InstanceEntries::Purged;
        assert_eq!((is_stored(ONE), is_stored(two)), (!is_purged, true), "{space:?}");
    }
}
