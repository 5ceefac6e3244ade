//! A seeded model of the ledger: random bodies against the guarantees of the module.

use proptest::prelude::*;

use super::*;

const CAPACITY: usize = 1000;
const LARGEST: usize = 400;

#[derive(Debug, Clone)]
enum LedgerStep {
    Begin,
    /// The body at this place of the list grows.
    Grow(usize, usize),
    Complete(usize),
    End(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<LedgerStep>> {
    let step = prop_oneof![
        2 => Just(LedgerStep::Begin),
        6 => (any::<usize>(), 1..LARGEST).prop_map(|(body, bytes)| LedgerStep::Grow(body, bytes)),
        1 => any::<usize>().prop_map(LedgerStep::Complete),
        1 => any::<usize>().prop_map(LedgerStep::End),
        2 => (0..1500_u64).prop_map(LedgerStep::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

/// A body as the model knows it.
#[derive(Debug, Clone)]
struct ModelBody {
    id: BodyId,
    bytes: usize,
    since: Instant,
    complete: bool,
}

fn run(shortage: ShortagePolicy, steps: Vec<LedgerStep>) {
    let mut ledger = Ledger::new(CAPACITY, shortage);
    let (mut bodies, mut now) = (Vec::<ModelBody>::new(), Instant::now());
    for step in steps {
        match step {
            LedgerStep::Begin => {
                bodies.push(ModelBody { id: ledger.begin(now), bytes: 0, since: now, complete: false });
            }
            LedgerStep::Grow(index, bytes) if !bodies.is_empty() => {
                let index = index % bodies.len();
                if !bodies[index].complete && bodies[index].bytes + bytes <= LARGEST {
                    grow(&mut ledger, &mut bodies, index, bytes, now);
                }
            }
            LedgerStep::Complete(index) if !bodies.is_empty() => {
                let index = index % bodies.len();
                bodies[index].complete = true;
                ledger.complete(bodies[index].id);
            }
            LedgerStep::End(index) if !bodies.is_empty() => {
                let body = bodies.remove(index % bodies.len());
                ledger.end(body.id);
            }
            LedgerStep::Wait(millis) => now += Duration::from_millis(millis),
            _ => {}
        }
        let held: usize = bodies.iter().map(|body| body.bytes).sum();
        assert_eq!(ledger.taken, held);
        let beyond = if shortage == ShortagePolicy::OldestFirst { LARGEST } else { 0 };
        assert!(held <= CAPACITY + beyond, "{held}");
    }
}

fn grow(ledger: &mut Ledger, bodies: &mut Vec<ModelBody>, index: usize, bytes: usize, now: Instant) {
    let id = bodies[index].id;
    let held: usize = bodies.iter().map(|body| body.bytes).sum();
    let oldest = bodies.iter().find(|body| !body.complete).cloned().unwrap();
    let growth = ledger.grow(id, bytes, now);
    if held + bytes <= CAPACITY {
        assert_eq!(growth, Growth::Granted, "there is room");
    }
    match growth {
        Growth::Granted => {
            let is_oldest = ledger.shortage == ShortagePolicy::OldestFirst && oldest.id == id;
            assert!(held + bytes <= CAPACITY || is_oldest, "{held} + {bytes}");
            bodies[index].bytes += bytes;
        }
        Growth::Drop(dropped) => {
            assert_eq!((ledger.shortage, dropped), (ShortagePolicy::DropOldest, oldest.id));
            assert!(oldest.since + GRACE <= now, "a body was dropped too early");
            bodies.retain(|body| body.id != dropped);
        }
        Growth::Wait { until } => match ledger.shortage {
            ShortagePolicy::OldestFirst => {
                let of_others = held - bodies[index].bytes;
                assert!(oldest.id != id || of_others > CAPACITY, "the oldest body must proceed");
            }
            ShortagePolicy::DropOldest => {
                assert_eq!(until, Some(oldest.since + GRACE));
                assert!(until > Some(now));
            }
        },
    }
}

proptest! {
    #[test]
    fn ledger_keeps_its_guarantees(steps in steps(), oldest_first in any::<bool>()) {
        run(if oldest_first { ShortagePolicy::OldestFirst } else { ShortagePolicy::DropOldest }, steps);
    }
}
