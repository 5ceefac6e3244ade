//! Single decisions of the send planner that the random histories cannot observe, because a later nudge would repair them.

use std::time::Duration;

use crate::instance::limiter::Limiter;
use crate::instance::planner::{Action, Capacity, Now, SendPlanner, Workers};
use crate::queue::{Lease, LeaseBatch};
use relevo_clock::Random;
use relevo_domain::{
    AmbiguousPolicy, Class, Content, Failure, FailureKind, FailureScope, InstanceNumber, MessageId,
    MessageOptions, Mode, OutboundMessage, RateLimit, Timestamp,
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
    SendPlanner::new(workers, Limiter::new(rate, pair, 0.0, Random::seeded(1)), false)
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

fn throttled(retry_after: Duration) -> Failure {
    Failure::new(FailureKind::Throttled { retry_after }, FailureScope::Number, "slow down")
}

/// Ends an attempt with a failure. Returns the actions.
fn fail(planner: &mut SendPlanner, failure: Failure, now: Now) -> Vec<Action> {
    planner.on_attempt_ended(Class::Transactional, Some(failure), SECOND, now);
    with_empty_leases(planner, now)
}

/// Answers all lease requests with an empty batch. Returns all actions.
fn with_empty_leases(planner: &mut SendPlanner, now: Now) -> Vec<Action> {
    let mut all = Vec::new();
    loop {
        let next = actions(planner);
        let requests: Vec<_> = next
            .iter()
            .filter_map(|action| match action {
                Action::Lease(request) => Some(*request),
                _ => None,
            })
            .collect();
        all.extend(next);
        if requests.is_empty() {
            return all;
        }
        for request in requests {
            planner.on_leased(Some(LeaseBatch::default()), request, Duration::from_micros(100), now);
        }
    }
}

/// A planner that is connected and has found no work.
fn idle_planner(workers: usize) -> SendPlanner {
    let mut planner = new_planner(workers, 20.0, None);
    let request = connect(&mut planner);
    planner.on_leased(Some(LeaseBatch::default()), request, Duration::from_micros(100), at(Duration::ZERO));
    with_empty_leases(&mut planner, at(Duration::ZERO));
    planner
}

#[test]
fn repeated_throttling_holds_the_instance_longer_each_time() {
    let mut planner = idle_planner(4);
    let (mut now, mut holds) = (Duration::ZERO, Vec::new());
    for _ in 0..9 {
        let held = fail(&mut planner, throttled(SECOND), at(now));
        // The other attempts of the same moment do not count again.
        fail(&mut planner, throttled(SECOND), at(now));
        let Some(wait) = held.iter().find_map(|action| match action {
            Action::WakeAfter(wait) => Some(*wait),
            _ => None,
        }) else {
            panic!("{held:?}")
        };
        let reported = held.iter().any(|action| matches!(action, Action::ReportHeld(..)));
        assert_eq!(reported, wait >= 5 * SECOND, "{held:?}");
        holds.push(wait.as_secs());
        now += wait;
        planner.on_wake(at(now));
        let next = with_empty_leases(&mut planner, at(now));
        let resumed = next.iter().any(|action| matches!(action, Action::ReportResumed));
        assert_eq!(resumed, reported);
    }
    assert_eq!(holds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    planner.on_attempt_ended(Class::Transactional, None, SECOND, at(now));
    let held = fail(&mut planner, throttled(SECOND), at(now));
    assert!(
        held.iter().any(|action| matches!(action, Action::WakeAfter(wait) if *wait == SECOND)),
        "{held:?}"
    );
}

#[test]
fn hold_is_bounded_and_independent_of_the_wall_clock() {
    let mut planner = idle_planner(1);
    let held = fail(&mut planner, throttled(3650 * 86_400 * SECOND), at(Duration::ZERO));
    let hour = 3600 * SECOND;
    assert!(
        held.iter().any(|action| matches!(action, Action::ReportHeld(_, until) if *until == START + hour)),
        "{held:?}"
    );
    // The wall clock went back by a month.
    planner.on_wake(Now { wall: Timestamp(START.millis() - 30 * 86_400_000), elapsed: hour });
    let next = actions(&mut planner);
    assert!(next.iter().any(|action| matches!(action, Action::Lease(_) | Action::ReportResumed)), "{next:?}");
}

#[test]
fn answer_of_another_server_is_put_to_the_probe_first() {
    let stray = || {
        let kind = FailureKind::Transient { max_attempts: None };
        Failure::new(kind, FailureScope::Number, "404")
    };
    let mut planner = idle_planner(2);
    let mut delays = Vec::new();
    for n in 0..4 {
        let next = fail(&mut planner, stray(), at(n * SECOND));
        let [Action::Verify(_, delay)] = next[..] else { panic!("{next:?}") };
        delays.push(delay.as_secs());
        // Nothing is leased until the probe has succeeded.
        planner.on_nudge(Class::Transactional, at(n * SECOND));
        assert!(actions(&mut planner).is_empty());
        assert!(planner.on_connected(at(n * SECOND)));
        let next = with_empty_leases(&mut planner, at(n * SECOND));
        assert!(next.iter().any(|action| matches!(action, Action::Lease(_))), "{next:?}");
    }
    assert_eq!(delays, [0, 1, 2, 4]);
}
