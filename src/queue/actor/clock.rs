//! The clocks of the actor: what a step of the wall clock changes.

use ractor::{ActorRef, MessagingErr};

use crate::queue::clock_steps::{ClockStep, Reading};
use crate::queue::due_times;
use relevo_domain::Timestamp;
use relevo_store::{Error as StoreError, Key, Priority, Tx};

use super::{Msg, State};

impl State {
    pub(super) fn reading(&self) -> Reading {
        Reading { wall: self.now(), elapsed: self.started.elapsed() }
    }

    /// The time by which messages expire.
    pub(super) fn expiry_time(&self) -> Timestamp {
        self.clock_steps.expiry_time(self.reading())
    }

    /// Compares the clock with the time that was recorded last. Due times in the future of a clock that went back are
    /// brought back before the first lease.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub(super) fn start_clock(&mut self, me: &ActorRef<Msg>) -> Result<(), ractor::ActorProcessingErr> {
        let recorded = due_times::recorded_time(&self.arguments.store)?;
        match self.clock_steps.start(recorded, self.reading()) {
            Some(ClockStep::Back(by)) => {
                tracing::warn!(
                    ?by,
                    "wall clock is behind the last recorded time; due times are brought back"
                );
                me.cast(Msg::BringBackDueTimes(None))?;
            }
            Some(ClockStep::Forward(_)) if !self.clock_steps.may_delete(self.reading()) => {
                tracing::info!(
                    "wall clock is hours ahead of the last recorded time; nothing is deleted for an hour"
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// Notices steps of the wall clock.
    ///
    /// # Errors
    ///
    /// The actor is stopping.
    pub(super) fn observe_clock(&mut self, me: &ActorRef<Msg>) -> Result<(), MessagingErr<Msg>> {
        let Some(step) = self.clock_steps.observe(self.reading()) else { return Ok(()) };
        match step {
            ClockStep::Back(by) => {
                tracing::warn!(?by, "wall clock went back; due times are brought back");
                me.cast(Msg::BringBackDueTimes(None))?;
            }
            ClockStep::Forward(by) if !self.clock_steps.may_delete(self.reading()) => {
                tracing::warn!(
                    ?by,
                    "wall clock went forward; nothing is deleted or expires by it for an hour"
                );
            }
            ClockStep::Forward(by) => tracing::info!(?by, "wall clock went forward"),
        }
        // Scheduled messages follow the wall clock, and the timers of the instances do not.
        self.arguments.notifier.notify_all();
        Ok(())
    }

    /// Brings back a page of due times, and continues with the next one.
    pub(super) async fn bring_back_due_times(&self, me: ActorRef<Msg>, from: Option<Key>) {
        let (now, notifier) = (self.now(), self.arguments.notifier.clone());
        let done = move |next: Result<Option<Key>, StoreError>| match next {
            Ok(Some(next)) => drop(me.cast(Msg::BringBackDueTimes(Some(next)))),
            Ok(None) => notifier.notify_all(),
            Err(error) => tracing::error!(%error, "due times not brought back; retries may be late"),
        };
        let work = move |tx: &mut Tx| due_times::bring_back(tx, now, from);
        self.arguments.store.submit_with_priority(Priority::Urgent, work, done).await;
    }
}
