//! What all supervisors use: a slot that holds the current incarnation of an actor, and children that restart.
//!
//! ractor gives a restarted actor a new reference and has no restart strategies. Handles hold an [`ActorSlot`] instead
//! of a reference, and the supervisor refills it. A [`Child`] counts its own crashes with a [`RestartPolicy`], so that a
//! flapping child does not use up the restarts of others.

mod child;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorId, ActorRef, Message, MessagingErr, RpcReplyPort};
use tokio::sync::watch;
use tokio::time::Instant;

use relevo_domain::Backoff;

pub use child::{Child, ChildExit, ExitReason, Incarnation, Restart};

/// How long a caller waits for an actor that is being restarted.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

/// The current incarnation of an actor, if there is one. Cheap to clone.
pub struct ActorSlot<M: Message> {
    current: Arc<watch::Sender<Option<ActorRef<M>>>>,
}

/// The actor ended and was not replaced in time; the request may or may not have been carried out.
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
    /// Makes `actor` the current incarnation.
    pub fn fill(&self, actor: ActorRef<M>) {
        self.current.send_replace(Some(actor));
    }

    /// Empties the slot until the next [`fill`](Self::fill).
    pub fn clear(&self) {
        self.current.send_replace(None);
    }

    /// The current incarnation, if there is one.
    pub fn get(&self) -> Option<ActorRef<M>> {
        self.current.borrow().clone()
    }

    /// Sends a message without a reply.
    ///
    /// # Errors
    /// [`ActorUnavailable`] when there is no current incarnation or it has ended; the message is lost.
    pub fn cast(&self, message: M) -> Result<(), ActorUnavailable> {
        let actor = self.get().ok_or(ActorUnavailable)?;
        actor.cast(message).map_err(|_| ActorUnavailable)
    }

    /// Sends a request and waits for the reply without a timeout. Waits up to ten seconds for an actor that is
    /// being replaced.
    ///
    /// # Errors
    /// [`ActorUnavailable`] when the actor is not replaced in time, or ends before it replies.
    pub async fn call<T, F>(&self, request: F) -> Result<T, ActorUnavailable>
    where
        T: Send + 'static,
        F: FnOnce(RpcReplyPort<T>) -> M,
    {
        let (reply, replied) = ractor::concurrency::oneshot();
        let mut message = request(reply.into());
        let mut ended = None;
        loop {
            let actor = self.wait(ended).await?;
            match actor.cast(message) {
                Ok(()) => break,
                // The actor has ended and its supervisor has not cleared the slot yet: send to the next incarnation.
                Err(MessagingErr::SendErr(returned)) => {
                    message = returned;
                    ended = Some(actor.get_id());
                }
                Err(_) => return Err(ActorUnavailable),
            }
        }
        replied.await.map_err(|_| ActorUnavailable)
    }

    /// Waits for an incarnation other than `ended`.
    async fn wait(&self, ended: Option<ActorId>) -> Result<ActorRef<M>, ActorUnavailable> {
        let alive =
            |found: &Option<ActorRef<M>>| found.as_ref().is_some_and(|actor| Some(actor.get_id()) != ended);
        let mut current = self.current.subscribe();
        let found = tokio::time::timeout(RESTART_TIMEOUT, current.wait_for(alive)).await;
        match found {
            Ok(Ok(actor)) => actor.clone().ok_or(ActorUnavailable),
            _ => Err(ActorUnavailable),
        }
    }
}

/// When a child is restarted: after a [`Backoff`] with factor 2, until more than `limit` crashes fall within
/// one minute.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    backoff: Backoff,
    limit: u32,
    crashes: VecDeque<Instant>,
}

/// The window in which crashes are counted.
const CRASH_WINDOW: Duration = Duration::from_secs(60);

impl RestartPolicy {
    /// A policy that allows `limit` crashes within one minute.
    pub fn new(first_delay: Duration, max_delay: Duration, limit: u32) -> Self {
        Self { backoff: Backoff::new(first_delay, 2, max_delay), limit, crashes: VecDeque::new() }
    }

    /// Records a crash. Returns the delay before the restart, or `None` when the limit is exceeded.
    pub fn record_crash(&mut self) -> Option<Duration> {
        let now = Instant::now();
        while self.crashes.front().is_some_and(|&at| now.duration_since(at) > CRASH_WINDOW) {
            self.crashes.pop_front();
        }
        self.crashes.push_back(now);
        let recent = u32::try_from(self.crashes.len()).unwrap_or(u32::MAX);
        (recent <= self.limit).then(|| self.backoff.full_delay(recent))
    }

    /// Clears the recorded crashes, after an operator has intervened.
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
        let delays: Vec<_> = (0..5).map(|_| policy.record_crash()).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(delays, [seconds(1), seconds(2), seconds(3), seconds(3), None]);
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
    async fn call_to_an_ended_actor_is_answered_by_its_replacement() {
        let slot = ActorSlot::default();
        let (first, _) = Actor::spawn(None, Echo, ()).await.unwrap();
        slot.fill(first.clone());
        assert_eq!(slot.call(|reply| reply).await, Ok(first.get_id()));
        first.kill_and_wait(None).await.unwrap();
        let call = tokio::spawn({
            let slot = slot.clone();
            async move { slot.call(|reply| reply).await }
        });
        tokio::task::yield_now().await;
        let (second, _) = Actor::spawn(None, Echo, ()).await.unwrap();
        slot.fill(second.clone());
        assert_eq!(call.await.unwrap(), Ok(second.get_id()));
    }

    #[tokio::test(start_paused = true)]
    async fn call_to_an_empty_slot_times_out() {
        let slot: ActorSlot<RpcReplyPort<()>> = ActorSlot::default();
        assert_eq!(slot.call(|reply| reply).await, Err(ActorUnavailable));
    }
}
