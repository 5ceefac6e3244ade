//! Single decisions of the send planner that the random histories cannot observe, because a later nudge would repair them.

use std::time::Duration;

use crate::instance::limiter::Limiter;
use crate::instance::planner::{Action, Capacity, Now, SendPlanner, Workers};
use crate::queue::{Lease, LeaseBatch};
use relevo_domain::{
    AmbiguousPolicy, Class, Content, InstanceNumber, MessageId, MessageOptions, Mode, OutboundMessage,
    RateLimit, Timestamp,
};
use relevo_store::Priority;

const START: Timestamp = Timestamp(1_763_800_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn at(elapsed: Duration) -> Now {
    Now { wall: START + elapsed, elapsed }
}

/// A lease of a message to one of 100 phone numbers.
pub fn lease(id: MessageId, to: u8, leased_at: Timestamp) -> Lease {
    let message = OutboundMessage {
        to: format!("5730012345{to:02}").parse().unwrap(),
        content: Content::Text { body: "hola".to_owned(), preview_url: false },
        quote: None,
        options: MessageOptions::default(),
    };
    Lease {
        id,
        message,
        mode: Mode::Async,
        on_ambiguous: AmbiguousPolicy::Hold,
        repeatable: true,
        failures: 0,
        attempt: 1,
        leased_at,
    }
}

fn new_lease(class: Class, number: u64, to: u8) -> Lease {
    lease(MessageId::new(START, 0, InstanceNumber::FIRST, class, number), to, START)
}

fn new_planner(workers: usize, per_second: f64, pair: Option<(Duration, u32)>) -> SendPlanner {
    let rate = RateLimit { per_second, burst: 2.try_into().unwrap() };
    let pair = pair.map(|(interval, burst)| (interval, burst.try_into().unwrap()));
    let workers = Workers { total: workers, bulk: workers };
    SendPlanner::new(workers, Limiter::new(rate, pair, 0.0, || 0.5))
}

/// Connects and returns the first lease request.
fn connect(planner: &mut SendPlanner) -> Capacity {
    assert!(planner.on_connected(at(Duration::ZERO)));
    let Some(Action::Lease(request)) = planner.next_action() else { panic!("no lease request") };
    assert_eq!(request.priority, Priority::Urgent);
    request
}

fn answer(planner: &mut SendPlanner, request: Capacity, leases: Vec<Lease>, now: Now) -> Vec<Action> {
    let batch = LeaseBatch { leases, next_due: None };
    planner.on_leased(Some(batch), request, Duration::from_micros(100), now);
    actions(planner)
}

fn actions(planner: &mut SendPlanner) -> Vec<Action> {
    std::iter::from_fn(|| planner.next_action()).collect()
}

#[test]
fn end_of_an_attempt_requests_work_at_once() {
    let mut planner = new_planner(1, 20.0, None);
    let request = connect(&mut planner);
    let begun =
        answer(&mut planner, request, vec![new_lease(Class::Transactional, 1, 1)], at(Duration::ZERO));
    assert!(matches!(begun[..], [Action::Begin(_)]), "{begun:?}");
    planner.on_attempt_ended(Class::Transactional, None, SECOND, at(SECOND));
    let next = actions(&mut planner);
    assert!(matches!(next[..], [Action::Lease(_)]), "{next:?}");
}

#[test]
fn message_without_recipient_permit_leaves_its_permit_to_the_next() {
    let mut planner = new_planner(3, 20.0, Some((6 * SECOND, 1)));
    let request = connect(&mut planner);
    let leases = vec![
        new_lease(Class::Transactional, 1, 1),
        new_lease(Class::Bulk, 2, 1),
        new_lease(Class::Bulk, 3, 2),
    ];
    let (first, same_recipient, other) = (leases[0].id, leases[1].id, leases[2].id);
    // The burst is two messages.
    let done = answer(&mut planner, request, leases, at(Duration::ZERO));
    let [Action::Begin(one), Action::Return(two, until), Action::Begin(three), ..] = &done[..] else {
        panic!("{done:?}")
    };
    assert_eq!((one.id, two.id, three.id), (first, same_recipient, other));
    assert_eq!(*until, START + 6 * SECOND);
}

#[test]
fn old_bulk_lease_is_returned_and_bulk_messages_are_requested_again() {
    let mut planner = new_planner(2, 20.0, None);
    let request = connect(&mut planner);
    let next = answer(&mut planner, request, Vec::new(), at(Duration::ZERO));
    let [Action::Lease(request)] = next[..] else { panic!("{next:?}") };
    assert_eq!((request.priority, request.total), (Priority::Normal, 2));
    let next = answer(&mut planner, request, vec![new_lease(Class::Bulk, 1, 1)], at(6 * SECOND));
    assert!(matches!(next[..], [Action::Return(..), Action::Lease(_)]), "{next:?}");
}

#[test]
fn next_message_is_awaited_only_after_the_queued_ones_were_requested() {
    let mut planner = new_planner(1, 2_000.0, None);
    let request = connect(&mut planner);
    assert!(planner.next_action().is_none());
    let next = answer(&mut planner, request, Vec::new(), at(Duration::ZERO));
    assert!(matches!(next[..], [Action::Lease(_), Action::AwaitNext]), "{next:?}");
}

#[test]
fn failed_lease_request_is_repeated_after_a_second() {
    let mut planner = new_planner(1, 20.0, None);
    let request = connect(&mut planner);
    planner.on_leased(None, request, SECOND, at(SECOND));
    let next = actions(&mut planner);
    assert!(
        next.iter().any(|action| matches!(action, Action::WakeAfter(wait) if *wait == SECOND)),
        "{next:?}"
    );
}

#[test]
fn new_connection_requests_every_class() {
    let mut planner = new_planner(2, 20.0, None);
    let request = connect(&mut planner);
    let next = answer(&mut planner, request, Vec::new(), at(Duration::ZERO));
    let [Action::Lease(request)] = next[..] else { panic!("{next:?}") };
    assert!(answer(&mut planner, request, Vec::new(), at(Duration::ZERO)).is_empty());
    planner.on_disconnected(at(Duration::ZERO));
    assert!(connect(&mut planner).bulk > 0);
}

#[test]
fn wake_up_for_a_bulk_message_is_not_moved_by_a_result_without_bulk_messages() {
    let mut planner = new_planner(1, 20.0, None);
    let request = connect(&mut planner);
    let next = answer(&mut planner, request, Vec::new(), at(Duration::ZERO));
    let [Action::Lease(bulk)] = next[..] else { panic!("{next:?}") };
    let due = |wait| LeaseBatch { leases: Vec::new(), next_due: Some(START + wait) };
    planner.on_leased(Some(due(2 * SECOND)), bulk, Duration::ZERO, at(Duration::ZERO));
    let next = actions(&mut planner);
    assert!(matches!(next[..], [Action::WakeAfter(wait)] if wait == 2 * SECOND), "{next:?}");
    planner.on_nudge(Class::Transactional, at(Duration::ZERO));
    let next = actions(&mut planner);
    let [Action::Lease(urgent)] = next[..] else { panic!("{next:?}") };
    assert_eq!((urgent.priority, urgent.bulk), (Priority::Urgent, 0));
    planner.on_leased(Some(due(60 * SECOND)), urgent, Duration::ZERO, at(SECOND));
    let next = actions(&mut planner);
    assert!(!next.iter().any(|action| matches!(action, Action::WakeAfter(_))), "{next:?}");
}
