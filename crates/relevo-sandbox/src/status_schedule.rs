//! Which status of which message is due when. Pure: the time is passed in.
//!
//! The pauses are the same for every message, so three queues in order of arrival are in order of due time, and
//! nothing is ever sorted. Statuses of one message leave in order because the pauses do not shrink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::webhooks::TrackedMessage;

/// What a webhook says about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusKind {
    Sent,
    Delivered,
    Read,
    Failed,
}

/// How far a message gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPlan {
    /// To `read`.
    UntilRead,
    /// No more than `sent`, as reactions do.
    SentOnly,
    /// `sent`, and then `failed` when it would have been delivered.
    SentThenFailed,
}

#[derive(Debug)]
pub struct StatusSchedule {
    /// From acceptance to each of `sent`, `delivered`, `read`; never shrinking.
    delays: [Duration; 3],
    queues: [VecDeque<(Instant, Arc<TrackedMessage>)>; 3],
}

impl StatusSchedule {
    pub fn new(sent: Duration, delivered: Duration, read: Duration) -> Self {
        let delivered = delivered.max(sent);
        Self { delays: [sent, delivered, read.max(delivered)], queues: Default::default() }
    }

    /// Messages and statuses that wait.
    pub fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Follows a message that was accepted at `accepted`, which is not before that of any earlier one.
    pub fn push(&mut self, message: TrackedMessage, accepted: Instant) {
        let message = Arc::new(message);
        let stages = match message.status_plan {
            StatusPlan::SentOnly => 1,
            StatusPlan::SentThenFailed => 2,
            StatusPlan::UntilRead => 3,
        };
        for (stage, pause) in self.queues.iter_mut().zip(self.delays).take(stages) {
            stage.push_back((accepted + pause, Arc::clone(&message)));
        }
    }

    /// When the next status is due, if any waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|stage| stage.front()).map(|(due, _)| *due).min()
    }

    /// Takes up to `limit` statuses that are due at `now`, the earliest first.
    pub fn take_due(&mut self, now: Instant, limit: usize) -> Vec<(StatusKind, Arc<TrackedMessage>)> {
        let mut taken = Vec::new();
        while taken.len() < limit {
            let heads =
                self.queues.iter_mut().zip([StatusKind::Sent, StatusKind::Delivered, StatusKind::Read]);
            // Of equals `min_by_key` takes the first: the earlier stage.
            let earliest = heads
                .filter_map(|(queue, stage)| {
                    queue.front().map(|(due, _)| *due).map(|due| (due, queue, stage))
                })
                .filter(|(due, ..)| *due <= now)
                .min_by_key(|(due, ..)| *due);
            let Some((_, queue, stage)) = earliest else { break };
            let Some((_, message)) = queue.pop_front() else { break };
            let fails = stage == StatusKind::Delivered && message.status_plan == StatusPlan::SentThenFailed;
            taken.push((if fails { StatusKind::Failed } else { stage }, message));
        }
        taken
    }

    /// Drops what waits of all messages but these.
    pub fn retain(&mut self, keep: impl Fn(&TrackedMessage) -> bool) {
        for stage in &mut self.queues {
            stage.retain(|(_, message)| keep(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::Addressee;

    const SECOND: Duration = Duration::from_secs(1);

    fn tracked_message(wamid: &str, course: StatusPlan) -> TrackedMessage {
        TrackedMessage {
            wamid: wamid.into(),
            phone_number_id: "1".into(),
            addressee: Addressee::Phone("2".into()),
            callback_data: None,
            is_template: false,
            status_plan: course,
            failure: None,
            generation: 0,
        }
    }

    fn status_and_wamid(taken: Vec<(StatusKind, Arc<TrackedMessage>)>) -> Vec<(StatusKind, String)> {
        taken.into_iter().map(|(stage, message)| (stage, message.wamid.clone())).collect()
    }

    #[test]
    fn statuses_are_returned_when_due() {
        let start = Instant::now();
        let mut timeline = StatusSchedule::new(Duration::ZERO, SECOND, SECOND * 3);
        timeline.push(tracked_message("a", StatusPlan::UntilRead), start);
        timeline.push(tracked_message("b", StatusPlan::UntilRead), start + SECOND);
        assert_eq!(status_and_wamid(timeline.take_due(start, 9)), [(StatusKind::Sent, "a".into())]);
        assert_eq!(timeline.next_due(), Some(start + SECOND));
        let then = status_and_wamid(timeline.take_due(start + SECOND, 9));
        assert_eq!(then, [(StatusKind::Sent, "b".into()), (StatusKind::Delivered, "a".into())]);
        let rest = status_and_wamid(timeline.take_due(start + SECOND * 9, 9));
        assert_eq!(
            rest.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(),
            [StatusKind::Delivered, StatusKind::Read, StatusKind::Read]
        );
        assert_eq!(timeline.len(), 0);
    }

    #[test]
    fn zero_delays_keep_status_order() {
        let now = Instant::now();
        let mut timeline = StatusSchedule::new(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        timeline.push(tracked_message("a", StatusPlan::UntilRead), now);
        let stages: Vec<StatusKind> = (0..3).map(|_| timeline.take_due(now, 1)[0].0).collect();
        assert_eq!(stages, [StatusKind::Sent, StatusKind::Delivered, StatusKind::Read]);
    }

    #[test]
    fn reaction_gets_only_sent_and_failure_gets_failed() {
        let now = Instant::now();
        let mut timeline = StatusSchedule::new(Duration::ZERO, SECOND, SECOND);
        timeline.push(tracked_message("r", StatusPlan::SentOnly), now);
        timeline.push(tracked_message("f", StatusPlan::SentThenFailed), now);
        let all = status_and_wamid(timeline.take_due(now + SECOND, 9));
        assert_eq!(
            all,
            [
                (StatusKind::Sent, "r".into()),
                (StatusKind::Sent, "f".into()),
                (StatusKind::Failed, "f".into())
            ]
        );
    }
}
