//! Steps of the wall clock: an operator or a time service sets it, or the machine starts with a wrong one.
//!
//! Pure: a step shows as a difference between the wall clock and the monotonic clock, or, at a start, as a wall clock that
//! is before the last recorded time. After a step back the due times of the queue are brought back (`due_times.rs`). After a
//! long step forward nothing is deleted, and nothing expires because of it, until the clock has held for an hour: the new
//! time may be wrong, and what is deleted is gone.

use std::time::Duration;

use relevo_domain::Timestamp;

/// Differences up to this are no steps: the two clocks are read one after the other, and the wall clock is disciplined.
const TOLERANCE: Duration = Duration::from_secs(2);

/// A step forward of more than this is doubted.
const LONG_STEP: Duration = Duration::from_secs(3600);

/// For how long a clock must hold after a long step forward.
const HOLD: Duration = Duration::from_secs(3600);

/// The two clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub wall: Timestamp,
    /// Monotonic time since the start of the reader.
    pub elapsed: Duration,
}

/// A step of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockStep {
    Back(Duration),
    Forward(Duration),
}

/// Notices steps.
#[derive(Debug, Default)]
pub(super) struct ClockSteps {
    last: Option<Reading>,
    doubt: Option<Doubt>,
}

/// A long step forward that may be wrong.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// By how much messages do not expire yet.
    by: Duration,
    /// The end of the doubt, on the monotonic clock.
    until: Duration,
}

impl ClockSteps {
    /// Compares the first reading of a run with the time that an earlier run recorded last. A clock that is far ahead of
    /// it may have been wrong while the node was stopped, or the node was stopped for long: nothing is deleted for an
    /// hour, and messages expire as usual.
    pub fn start(&mut self, recorded: Option<Timestamp>, reading: Reading) -> Option<ClockStep> {
        self.last = Some(reading);
        let step = step_between(recorded?, reading.wall)?;
        if matches!(step, ClockStep::Forward(by) if by > LONG_STEP) {
            self.doubt = Some(Doubt { by: Duration::ZERO, until: reading.elapsed + HOLD });
        }
        Some(step)
    }

    /// Takes a reading; returns the step since the previous one.
    pub fn observe(&mut self, reading: Reading) -> Option<ClockStep> {
        let last = self.last.replace(reading)?;
        let expected = last.wall + reading.elapsed.saturating_sub(last.elapsed);
        let step = step_between(expected, reading.wall)?;
        let before = self.doubt.filter(|doubt| doubt.until > reading.elapsed).map(|doubt| doubt.by);
        let by = match step {
            ClockStep::Forward(by) => before.unwrap_or_default() + by,
            ClockStep::Back(by) => before.unwrap_or_default().saturating_sub(by),
        };
        if by > LONG_STEP {
            self.doubt = Some(Doubt { by, until: reading.elapsed + HOLD });
        } else if matches!(step, ClockStep::Back(_)) {
            self.doubt = None;
        }
        Some(step)
    }

    /// Whether old records may be deleted.
    pub fn may_delete(&self, reading: Reading) -> bool {
        self.doubt.is_none_or(|doubt| doubt.until <= reading.elapsed)
    }

    /// The time by which messages expire.
    pub fn expiry_time(&self, reading: Reading) -> Timestamp {
        let doubt = self.doubt.filter(|doubt| doubt.until > reading.elapsed);
        doubt.map_or(reading.wall, |doubt| reading.wall - doubt.by)
    }
}

/// The step from the expected time to the time that the clock shows.
fn step_between(expected: Timestamp, shown: Timestamp) -> Option<ClockStep> {
    if shown + TOLERANCE < expected {
        Some(ClockStep::Back(expected.since(shown)))
    } else if shown > expected + TOLERANCE {
        Some(ClockStep::Forward(shown.since(expected)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_763_800_000_000);
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

    fn at(elapsed: Duration, wall: Timestamp) -> Reading {
        Reading { wall, elapsed }
    }

    #[test]
    fn clock_that_runs_evenly_makes_no_steps() {
        let mut steps = ClockSteps::default();
        assert_eq!(
            steps.start(Some(START - HOUR), at(Duration::ZERO, START)),
            Some(ClockStep::Forward(HOUR))
        );
        for n in 1..100 {
            // The wall clock is slewed by a millisecond a second.
            let wall = START + n * SECOND + Duration::from_millis(n.into());
            assert_eq!(steps.observe(at(n * SECOND, wall)), None);
        }
        assert!(steps.may_delete(at(100 * SECOND, START)), "an hour without the node is not doubted");
    }

    #[test]
    fn steps_in_both_directions_are_noticed_live() {
        for by in [10 * SECOND, HOUR, MONTH] {
            let mut steps = ClockSteps::default();
            steps.start(None, at(Duration::ZERO, START));
            assert_eq!(steps.observe(at(SECOND, START + SECOND - by)), Some(ClockStep::Back(by)));
            assert_eq!(steps.observe(at(2 * SECOND, START + 2 * SECOND - by)), None);
            assert_eq!(steps.observe(at(3 * SECOND, START + 3 * SECOND)), Some(ClockStep::Forward(by)));
        }
    }

    #[test]
    fn step_back_is_noticed_at_a_start() {
        for by in [HOUR, MONTH] {
            let mut steps = ClockSteps::default();
            let step = steps.start(Some(START), at(Duration::ZERO, START - by));
            assert_eq!(step, Some(ClockStep::Back(by)));
            assert!(steps.may_delete(at(Duration::ZERO, START - by)));
        }
    }

    #[test]
    fn long_step_forward_deletes_and_expires_nothing_for_an_hour() {
        let mut steps = ClockSteps::default();
        steps.start(None, at(Duration::ZERO, START));
        let wrong = |elapsed: Duration| at(elapsed, START + MONTH + elapsed);
        steps.observe(wrong(SECOND));
        for elapsed in [SECOND, HOUR] {
            assert!(!steps.may_delete(wrong(elapsed)));
            assert_eq!(steps.expiry_time(wrong(elapsed)), START + elapsed);
        }
        let held = HOUR + 2 * SECOND;
        assert!(steps.may_delete(wrong(held)));
        assert_eq!(steps.expiry_time(wrong(held)), START + MONTH + held);
    }

    #[test]
    fn doubt_ends_when_the_clock_returns_and_begins_again_with_another_step() {
        let mut steps = ClockSteps::default();
        steps.start(None, at(Duration::ZERO, START));
        steps.observe(at(SECOND, START + MONTH));
        steps.observe(at(2 * SECOND, START + 2 * SECOND));
        assert!(steps.may_delete(at(2 * SECOND, START)), "the clock is right again");
        steps.observe(at(3 * SECOND, START + MONTH));
        steps.observe(at(HOUR, START + 2 * MONTH));
        let later = at(HOUR + HOUR / 2, START + 2 * MONTH + HOUR / 2);
        assert!(!steps.may_delete(later), "it has not held for an hour since the second step");
        assert!(steps.expiry_time(later) < START + 2 * HOUR);
    }

    #[test]
    fn long_time_without_the_node_delays_only_deletion() {
        let mut steps = ClockSteps::default();
        let now = at(Duration::ZERO, START + MONTH);
        assert_eq!(steps.start(Some(START), now), Some(ClockStep::Forward(MONTH)));
        assert!(!steps.may_delete(now));
        assert_eq!(steps.expiry_time(now), now.wall);
        assert!(steps.may_delete(at(HOUR, START + MONTH + HOUR)));
    }
}
