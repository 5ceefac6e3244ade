//! Schedules the statuses of messages. Pure: the caller passes the time.
//!
//! The delays are the same for every message, so three queues in order of arrival are also in order of due time and
//! need no sorting. Statuses of one message leave in order because the delays do not decrease.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::webhooks::TrackedMessage;

/// Status of a message in a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusKind {
    Sent,
    Delivered,
    Read,
    Failed,
}

/// The sequence of statuses of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPlan {
    /// `sent`, `delivered`, `read`.
    UntilRead,
    /// `sent` only, as for reactions.
    SentOnly,
    /// `sent`, then `failed` at the time of `delivered`.
    SentThenFailed,
}

/// The pending statuses of all messages.
#[derive(Debug)]
pub struct StatusSchedule {
    /// Delays from acceptance to `sent`, `delivered` and `read`; never decreasing.
    delays: [Duration; 3],
    queues: [VecDeque<(Instant, Arc<TrackedMessage>)>; 3],
}

impl StatusSchedule {
    /// An empty schedule with these delays. A delay that is shorter than the previous one is raised to it.
    pub fn new(sent: Duration, delivered: Duration, read: Duration) -> Self {
        let delivered = delivered.max(sent);
        Self { delays: [sent, delivered, read.max(delivered)], queues: Default::default() }
    }

    /// Number of pending statuses.
    pub fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Schedules the statuses of a message. `accepted` must not be earlier than that of a previous call.
    pub fn push(&mut self, message: TrackedMessage, accepted: Instant) {
        let message = Arc::new(message);
        let count = match message.status_plan {
            StatusPlan::SentOnly => 1,
            StatusPlan::SentThenFailed => 2,
            StatusPlan::UntilRead => 3,
        };
        for (queue, delay) in self.queues.iter_mut().zip(self.delays).take(count) {
            queue.push_back((accepted + delay, Arc::clone(&message)));
        }
    }

    /// The time at which the next status is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min()
    }

    /// Takes up to `limit` statuses that are due at `now`, the earliest first.
    pub fn take_due(&mut self, now: Instant, limit: usize) -> Vec<(StatusKind, Arc<TrackedMessage>)> {
        let mut taken = Vec::new();
        while taken.len() < limit {
            let heads =
                self.queues.iter_mut().zip([StatusKind::Sent, StatusKind::Delivered, StatusKind::Read]);
            // Of equal times `min_by_key` selects the first: the earlier status.
            let earliest = heads
                .filter_map(|(queue, kind)| queue.front().map(|(due, _)| *due).map(|due| (due, queue, kind)))
                .filter(|(due, ..)| *due <= now)
                .min_by_key(|(due, ..)| *due);
            let Some((_, queue, kind)) = earliest else { break };
            let Some((_, message)) = queue.pop_front() else { break };
            let fails = kind == StatusKind::Delivered && message.status_plan == StatusPlan::SentThenFailed;
            taken.push((if fails { StatusKind::Failed } else { kind }, message));
        }
        taken
    }

    /// Keeps the statuses of the messages that match `keep`.
    pub fn retain(&mut self, keep: impl Fn(&TrackedMessage) -> bool) {
        for queue in &mut self.queues {
            queue.retain(|(_, message)| keep(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::Addressee;

    const SECOND: Duration = Duration::from_secs(1);

    fn tracked_message(wamid: &str, plan: StatusPlan) -> TrackedMessage {
        TrackedMessage {
            wamid: wamid.into(),
            phone_number_id: "1".into(),
            addressee: Addressee::Phone("2".into()),
            callback_data: None,
            is_template: false,
            status_plan: plan,
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
        let mut schedule = StatusSchedule::new(Duration::ZERO, SECOND, SECOND * 3);
        schedule.push(tracked_message("a", StatusPlan::UntilRead), start);
        schedule.push(tracked_message("b", StatusPlan::UntilRead), start + SECOND);
        assert_eq!(status_and_wamid(schedule.take_due(start, 9)), [(StatusKind::Sent, "a".into())]);
        assert_eq!(schedule.next_due(), Some(start + SECOND));
        let then = status_and_wamid(schedule.take_due(start + SECOND, 9));
        assert_eq!(then, [(StatusKind::Sent, "b".into()), (StatusKind::Delivered, "a".into())]);
        let rest = status_and_wamid(schedule.take_due(start + SECOND * 9, 9));
        assert_eq!(
            rest.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(),
            [StatusKind::Delivered, StatusKind::Read, StatusKind::Read]
        );
        assert_eq!(schedule.len(), 0);
    }

    #[test]
    fn zero_delays_keep_status_order() {
        let now = Instant::now();
        let mut schedule = StatusSchedule::new(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        schedule.push(tracked_message("a", StatusPlan::UntilRead), now);
        let stages: Vec<StatusKind> = (0..3).map(|_| schedule.take_due(now, 1)[0].0).collect();
        assert_eq!(stages, [StatusKind::Sent, StatusKind::Delivered, StatusKind::Read]);
    }

    #[test]
    fn reaction_gets_only_sent_and_failure_gets_failed() {
        let now = Instant::now();
        let mut schedule = StatusSchedule::new(Duration::ZERO, SECOND, SECOND);
        schedule.push(tracked_message("r", StatusPlan::SentOnly), now);
        schedule.push(tracked_message("f", StatusPlan::SentThenFailed), now);
        let all = status_and_wamid(schedule.take_due(now + SECOND, 9));
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
