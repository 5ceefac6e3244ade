//! Which status of which message is due when. Pure: the time is passed in.
//!
//! The pauses are the same for every message, so three queues in order of arrival are in order of due time, and
//! nothing is ever sorted. Statuses of one message leave in order because the pauses do not shrink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::webhooks::Tracked;

/// What a webhook says about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Sent,
    Delivered,
    Read,
    Failed,
}

/// How far a message gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// To `read`.
    Whole,
    /// No more than `sent`, as reactions do.
    SentOnly,
    /// `sent`, and then `failed` when it would have been delivered.
    Fails,
}

#[derive(Debug)]
pub struct Timeline {
    /// From acceptance to each of `sent`, `delivered`, `read`; never shrinking.
    pauses: [Duration; 3],
    stages: [VecDeque<(Instant, Arc<Tracked>)>; 3],
}

impl Timeline {
    pub fn new(sent: Duration, delivered: Duration, read: Duration) -> Self {
        let delivered = delivered.max(sent);
        Self { pauses: [sent, delivered, read.max(delivered)], stages: Default::default() }
    }

    /// Messages and statuses that wait.
    pub fn len(&self) -> usize {
        self.stages.iter().map(VecDeque::len).sum()
    }

    /// Follows a message that was accepted at `accepted`, which is not before that of any earlier one.
    pub fn push(&mut self, message: Tracked, accepted: Instant) {
        let message = Arc::new(message);
        let stages = match message.course {
            Course::SentOnly => 1,
            Course::Fails => 2,
            Course::Whole => 3,
        };
        for (stage, pause) in self.stages.iter_mut().zip(self.pauses).take(stages) {
            stage.push_back((accepted + pause, Arc::clone(&message)));
        }
    }

    /// When the next status is due, if any waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.stages.iter().filter_map(|stage| stage.front()).map(|(due, _)| *due).min()
    }

    /// Takes up to `limit` statuses that are due at `now`, the earliest first.
    pub fn take_due(&mut self, now: Instant, limit: usize) -> Vec<(Stage, Arc<Tracked>)> {
        let mut taken = Vec::new();
        while taken.len() < limit {
            let heads = self.stages.iter_mut().zip([Stage::Sent, Stage::Delivered, Stage::Read]);
            // Of equals `min_by_key` takes the first: the earlier stage.
            let earliest = heads
                .filter_map(|(queue, stage)| {
                    queue.front().map(|(due, _)| *due).map(|due| (due, queue, stage))
                })
                .filter(|(due, ..)| *due <= now)
                .min_by_key(|(due, ..)| *due);
            let Some((_, queue, stage)) = earliest else { break };
            let Some((_, message)) = queue.pop_front() else { break };
            let fails = stage == Stage::Delivered && message.course == Course::Fails;
            taken.push((if fails { Stage::Failed } else { stage }, message));
        }
        taken
    }

    /// Drops what waits of all messages but these.
    pub fn retain(&mut self, keep: impl Fn(&Tracked) -> bool) {
        for stage in &mut self.stages {
            stage.retain(|(_, message)| keep(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::Addressee;

    const SECOND: Duration = Duration::from_secs(1);

    fn tracked(wamid: &str, course: Course) -> Tracked {
        Tracked {
            wamid: wamid.into(),
            phone_number_id: "1".into(),
            addressee: Addressee::Phone("2".into()),
            callback_data: None,
            is_template: false,
            course,
            failure: None,
            generation: 0,
        }
    }

    fn names(taken: Vec<(Stage, Arc<Tracked>)>) -> Vec<(Stage, String)> {
        taken.into_iter().map(|(stage, message)| (stage, message.wamid.clone())).collect()
    }

    #[test]
    fn statuses_come_when_they_are_due() {
        let start = Instant::now();
        let mut timeline = Timeline::new(Duration::ZERO, SECOND, SECOND * 3);
        timeline.push(tracked("a", Course::Whole), start);
        timeline.push(tracked("b", Course::Whole), start + SECOND);
        assert_eq!(names(timeline.take_due(start, 9)), [(Stage::Sent, "a".into())]);
        assert_eq!(timeline.next_due(), Some(start + SECOND));
        let then = names(timeline.take_due(start + SECOND, 9));
        assert_eq!(then, [(Stage::Sent, "b".into()), (Stage::Delivered, "a".into())]);
        let rest = names(timeline.take_due(start + SECOND * 9, 9));
        assert_eq!(
            rest.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(),
            [Stage::Delivered, Stage::Read, Stage::Read]
        );
        assert_eq!(timeline.len(), 0);
    }

    #[test]
    fn without_pauses_each_message_keeps_its_order() {
        let now = Instant::now();
        let mut timeline = Timeline::new(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        timeline.push(tracked("a", Course::Whole), now);
        let stages: Vec<Stage> = (0..3).map(|_| timeline.take_due(now, 1)[0].0).collect();
        assert_eq!(stages, [Stage::Sent, Stage::Delivered, Stage::Read]);
    }

    #[test]
    fn a_reaction_is_only_sent_and_a_failure_fails() {
        let now = Instant::now();
        let mut timeline = Timeline::new(Duration::ZERO, SECOND, SECOND);
        timeline.push(tracked("r", Course::SentOnly), now);
        timeline.push(tracked("f", Course::Fails), now);
        let all = names(timeline.take_due(now + SECOND, 9));
        assert_eq!(all, [(Stage::Sent, "r".into()), (Stage::Sent, "f".into()), (Stage::Failed, "f".into())]);
    }
}
