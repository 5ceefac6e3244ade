//! What supervisors share: a place where the current incarnation of an actor is found, and the patience with
//! which it is replaced.
//!
//! ractor gives a restarted actor a new reference and has no restart strategies of its own. A [`Slot`] is what
//! handles hold instead of a reference; its supervisor refills it. A [`RestartPolicy`] counts crashes per child,
//! so that one flapping child never wears out the patience that others need.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorId, ActorRef, Message, MessagingErr, RpcReplyPort};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a caller waits for an actor that is being restarted.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the current incarnation of an actor is found. Cheap to clone.
pub struct ActorSlot<M: Message> {
    current: Arc<watch::Sender<Option<ActorRef<M>>>>,
}

/// The actor is gone and was not replaced in time; what was asked may or may not have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a part of the node is restarting; try again")]
pub struct ActorUnavailable;

impl<M: Message> Clone for ActorSlot<M> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone() }
    }
}

impl<M: Message> Default for ActorSlot<M> {
    fn default() -> Self {
        Self { current: Arc::new(watch::Sender::new(None)) }
    }
}

impl<M: Message> ActorSlot<M> {
    /// Makes `actor` the one that is found from now on.
    pub fn fill(&self, actor: ActorRef<M>) {
        self.current.send_replace(Some(actor));
    }

    /// Nobody is found until the next [`fill`](Self::fill).
    pub fn clear(&self) {
        self.current.send_replace(None);
    }

    /// The current incarnation, if there is one.
    pub fn get(&self) -> Option<ActorRef<M>> {
        self.current.borrow().clone()
    }

    /// Sends without an answer; a message to an actor that is being replaced is lost.
    pub fn cast(&self, message: M) -> Result<(), ActorUnavailable> {
        let actor = self.get().ok_or(ActorUnavailable)?;
        actor.cast(message).map_err(|_| ActorUnavailable)
    }

    /// Asks and waits for the answer, however long it takes. Waits a bounded time for an actor that is being
    /// replaced; an actor that dies with the question unanswered is [`Gone`].
    pub async fn call<T, F>(&self, question: F) -> Result<T, ActorUnavailable>
    where
        T: Send + 'static,
        F: FnOnce(RpcReplyPort<T>) -> M,
    {
        let (answer, answered) = ractor::concurrency::oneshot();
        let mut message = question(answer.into());
        let mut dead = None;
        loop {
            let actor = self.wait(dead).await?;
            match actor.cast(message) {
                Ok(()) => break,
                // It ended, and its supervisor has not cleared its place yet: the question is for its successor.
                Err(MessagingErr::SendErr(returned)) => {
                    message = returned;
                    dead = Some(actor.get_id());
                }
                Err(_) => return Err(ActorUnavailable),
            }
        }
        answered.await.map_err(|_| ActorUnavailable)
    }

    /// The current incarnation, or the next one; `dead` is known not to be it.
    async fn wait(&self, dead: Option<ActorId>) -> Result<ActorRef<M>, ActorUnavailable> {
        let alive =
            |found: &Option<ActorRef<M>>| found.as_ref().is_some_and(|actor| Some(actor.get_id()) != dead);
        let mut current = self.current.subscribe();
        let found = tokio::time::timeout(RESTART_TIMEOUT, current.wait_for(alive)).await;
        match found {
            Ok(Ok(actor)) => actor.clone().ok_or(ActorUnavailable),
            _ => Err(ActorUnavailable),
        }
    }
}

/// How patiently a child is replaced: `first × 2^n`, capped, until more than `limit` crashes fall within a minute.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    first_delay: Duration,
    max_delay: Duration,
    limit: u32,
    crashes: VecDeque<Instant>,
}

/// The window in which crashes are counted.
const CRASH_WINDOW: Duration = Duration::from_secs(60);

impl RestartPolicy {
    pub fn new(first_delay: Duration, max_delay: Duration, limit: u32) -> Self {
        Self { first_delay, max_delay, limit, crashes: VecDeque::new() }
    }

    /// Records a crash. The pause before the restart, or `None` when the child has used up its patience.
    pub fn record_crash(&mut self) -> Option<Duration> {
        let now = Instant::now();
        while self.crashes.front().is_some_and(|&at| now.duration_since(at) > CRASH_WINDOW) {
            self.crashes.pop_front();
        }
        self.crashes.push_back(now);
        let recent = u32::try_from(self.crashes.len()).unwrap_or(u32::MAX);
        if recent > self.limit {
            return None;
        }
        Some(self.first_delay.saturating_mul(2u32.saturating_pow(recent - 1)).min(self.max_delay))
    }

    /// Forgets earlier crashes: somebody took care.
    pub fn reset(&mut self) {
        self.crashes.clear();
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn restart_delay_doubles_until_the_crash_limit() {
        let mut policy = RestartPolicy::new(Duration::from_secs(1), Duration::from_secs(3), 4);
        let pauses: Vec<_> = (0..5).map(|_| policy.record_crash()).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(pauses, [seconds(1), seconds(2), seconds(3), seconds(3), None]);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(policy.record_crash(), seconds(1));
    }

    struct Echo;

    impl Actor for Echo {
        type Msg = RpcReplyPort<ActorId>;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            me: ActorRef<Self::Msg>,
            reply: Self::Msg,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            let _ = reply.send(me.get_id());
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn call_to_a_dead_actor_is_answered_by_its_replacement() {
        let slot = ActorSlot::default();
        let (first, _) = Actor::spawn(None, Echo, ()).await.unwrap();
        slot.fill(first.clone());
        assert_eq!(slot.call(|reply| reply).await, Ok(first.get_id()));
        first.kill_and_wait(None).await.unwrap();
        let asked = tokio::spawn({
            let slot = slot.clone();
            async move { slot.call(|reply| reply).await }
        });
        tokio::task::yield_now().await;
        let (second, _) = Actor::spawn(None, Echo, ()).await.unwrap();
        slot.fill(second.clone());
        assert_eq!(asked.await.unwrap(), Ok(second.get_id()));
    }

    #[tokio::test(start_paused = true)]
    async fn call_to_an_empty_slot_times_out() {
        let slot: ActorSlot<RpcReplyPort<()>> = ActorSlot::default();
        assert_eq!(slot.call(|reply| reply).await, Err(ActorUnavailable));
    }
}
