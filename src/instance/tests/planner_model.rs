//! The send planner against a model of the queue and of WhatsApp, over random histories.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use super::planner_world::{End, Op, Outcome, RECIPIENTS, Settings, World};
use crate::instance::planner::Workers;
use relevo_domain::{FailureKind, FailureScope};

fn settings() -> impl Strategy<Value = Settings> {
    let rate = prop_oneof![
        Just((0.5, 1, 0.0)),
        Just((0.5, 3, 0.5)),
        Just((20.0, 2, 0.0)),
        Just((200.0, 1, 0.0)),
        Just((2_000.0, 50, 0.0)),
    ];
    let pair = prop::option::weighted(0.4, Just((Duration::from_secs(6), 2)));
    (1..5usize, 1..5usize, rate, any::<bool>(), pair).prop_map(
        |(total, bulk, (per_second, burst, jitter), keeps_connection, pair)| Settings {
            workers: Workers { total, bulk: bulk.min(total) },
            per_second,
            burst,
            jitter,
            keeps_connection,
            pair,
        },
    )
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let second = Duration::from_secs(1);
    let throttled = FailureKind::Throttled { retry_after: 3 * second };
    let failed = |kind, scope| Just(Outcome::Failed(kind, scope));
    prop_oneof![
        12 => Just(Outcome::Sent),
        2 => failed(FailureKind::Transient { max_attempts: None }, FailureScope::Message),
        1 => failed(FailureKind::Transient { max_attempts: None }, FailureScope::Number),
        1 => failed(FailureKind::Deferred { retry_after: 20 * second }, FailureScope::Message),
        1 => failed(FailureKind::Permanent, FailureScope::Message),
        1 => failed(FailureKind::Ambiguous, FailureScope::Message),
        1 => failed(throttled, FailureScope::Recipient),
        2 => failed(throttled, FailureScope::Number),
        1 => prop_oneof![
            5 => Just(Outcome::Sent),
            1 => failed(FailureKind::LoggedOut, FailureScope::Number),
            1 => failed(FailureKind::AccountBlocked, FailureScope::Number),
        ],
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let millis = prop_oneof![4 => Just(1), 4 => Just(5), 2 => Just(500), 1 => Just(3_000), 1 => Just(6_000)];
    let took = prop_oneof![Just(100), Just(5_000), Just(300_000)];
    prop_oneof![
        12 => (any::<bool>(), 0..RECIPIENTS).prop_map(|(bulk, to)| Op::Accept { bulk, to }),
        16 => any::<usize>().prop_map(Op::Commit),
        2 => Just(Op::FailLease),
        30 => (any::<usize>(), took).prop_map(|(which, took)| Op::Deliver { which, took }),
        12 => (any::<usize>(), outcome()).prop_map(|(attempt, outcome)| Op::EndAttempt(attempt, outcome)),
        8 => millis.prop_map(Op::Advance),
        3 => Just(Op::Connect),
        1 => Just(Op::Disconnect),
        1 => prop_oneof![9 => Just(Op::Disconnect), 1 => Just(Op::Stop), 2 => Just(Op::Drain)],
    ]
}

#[test]
fn random_histories_keep_the_planner_within_its_limits() {
    let config = ProptestConfig {
        // Each run tests the same histories; PROPTEST_CASES asks for more of them.
        rng_seed: RngSeed::Fixed(0x7265_6c65_766f),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let end = prop_oneof![4 => Just(End::SendAll), 1 => Just(End::Drain), 1 => Just(End::ActorEnds)];
    let histories = (settings(), prop::collection::vec(op(), 1..250), end);
    let outcome = TestRunner::new(config).run(&histories, |(settings, history, end)| {
        let mut world = World::new(settings);
        world.apply(Op::Connect);
        for op in history {
            world.apply(op);
        }
        world.finish(end);
        Ok(())
    });
    outcome.unwrap();
}
