//! The supervisor of the relay: starts its actor, restarts it with backoff, and drains it.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::Notify;

use crate::supervisor::{ActorSlot, Child, ChildExit, Incarnation, RestartPolicy};
use relevo_clock::Clock;
use relevo_metrics::Metrics;
use relevo_store::Store;

use super::actor::{self, RelayActor};
use super::handle::ActiveRelay;
use super::pusher::Pusher;
use super::websocket::RelayPeer;
use super::{Error, FrameQueue, Handle, Options};

/// Delay before the first restart of a crashed actor. Restarts never end, because queued frames must reach the peer.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// Maximum delay before a restart.
const RESTART_MAX_DELAY: Duration = Duration::from_secs(5);

/// Timeout for an actor to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages of the supervisor.
pub enum Msg {
    /// From handles: replace the actor. The reply follows the start of the new one.
    Restart(RpcReplyPort<()>),
    /// From the stopping node: reply when no attempt is in flight.
    Drain(RpcReplyPort<()>),
    /// From a timer, with the incarnation that crashed: the restart delay is over.
    Start(Incarnation),
}

/// The supervisor of the relay.
pub struct RelaySupervisor;

/// Arguments of the supervisor.
pub struct Arguments {
    pusher: Pusher,
    /// Filled with each incarnation of the actor.
    relay: ActorSlot<actor::Msg>,
}

impl Arguments {
    /// The arguments of the supervisor, or `None` if the relay is disabled; and the handle.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up, or the URL is no WebSocket URL.
    pub fn new(
        options: &Options,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        slot: ActorSlot<Msg>,
    ) -> Result<(Option<Self>, Handle), Error> {
        let Some(url) = &options.url else { return Ok((None, Handle::disabled(store, clock))) };
        let peer = RelayPeer::new(url, options.timeout)?;
        let (frame_added, retry_now) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let relay = ActorSlot::default();
        let frame_queue = FrameQueue::new(options.capacity, frame_added.clone());
        let pusher = Pusher {
            store: store.clone(),
            metrics,
            peer: peer.clone(),
            retry_delay: options.retry_delay,
            frame_added,
            retry_now: retry_now.clone(),
        };
        let active = ActiveRelay { slot, relay: relay.clone(), peer, retry_now, capacity: options.capacity };
        let handle = Handle::new(store, clock, frame_queue, active);
        Ok((Some(Self { pusher, relay }), handle))
    }
}

/// State of the supervisor.
pub struct State {
    arguments: Arguments,
    child: Child<actor::Msg>,
    draining: bool,
}

impl Actor for RelaySupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let restarts = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
        let mut state = State { arguments, child: Child::new(restarts), draining: false };
        state.start(&me).await;
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Restart(reply) => {
                state.restart(&me).await;
                let _ = reply.send(());
            }
            Msg::Drain(reply) => state.drain(reply),
            Msg::Start(incarnation) => {
                if state.child.is_current(incarnation) {
                    state.start(&me).await;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(exit) = ChildExit::from_event(event)
            && state.child.is(exit.actor)
        {
            state.crashed(&me, &exit.reason.text(""));
        }
        Ok(())
    }
}

impl State {
    /// Starts the actor, unless it runs or the supervisor is draining.
    async fn start(&mut self, me: &ActorRef<Msg>) {
        if self.child.actor().is_some() || self.draining {
            return;
        }
        self.child.begin();
        let pusher = self.arguments.pusher.clone();
        if let Err(error) = self.child.spawn(RelayActor, pusher, me.get_cell()).await {
            return self.crashed(me, &error.to_string());
        }
        if let Some(actor) = self.child.actor() {
            self.arguments.relay.fill(actor.clone());
        }
    }

    async fn restart(&mut self, me: &ActorRef<Msg>) {
        if let Some(actor) = self.child.release() {
            self.arguments.relay.clear();
            let reason = Some("restart requested".to_owned());
            let _ = actor.stop_and_wait(reason, Some(STOP_TIMEOUT)).await;
        }
        self.child.reset_restarts();
        self.start(me).await;
    }

    fn crashed(&mut self, me: &ActorRef<Msg>, cause: &str) {
        self.arguments.relay.clear();
        let delay = self.child.crashed().delay_or(RESTART_MAX_DELAY);
        tracing::error!(cause, restart_in = ?delay, "relay actor stopped; restarting");
        self.child.restart_after(delay, me, Msg::Start);
    }

    fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let actor = self.child.actor().cloned();
        tokio::spawn(async move {
            if let Some(actor) = actor {
                let _ = actor.call(actor::Msg::Drain, None).await;
            }
            let _ = reply.send(());
        });
    }
}

#[cfg(test)]
mod tests {
    use relevo_domain::Timestamp;
    use relevo_store::{DataFolder, Options as StoreOptions};

    use super::*;

    async fn wait_until(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if condition() {
                return;
            }
            // Yields only: waiting for a timer would move the paused time.
            tokio::task::yield_now().await;
        }
        panic!("the relay never {what}");
    }

    #[tokio::test(start_paused = true)]
    async fn timer_of_an_earlier_incarnation_restarts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _) = Store::open(&folder, &StoreOptions::default(), Metrics::default()).unwrap();
        let options = Options { url: Some("ws://127.0.0.1:1/".parse().unwrap()), ..Options::default() };
        let clock = Clock::from_tokio(Timestamp(1_705_491_000_250));
        let slot = ActorSlot::default();
        let (arguments, handle) =
            Arguments::new(&options, store, clock, Metrics::default(), slot.clone()).unwrap();
        let arguments = arguments.unwrap();
        let relay = arguments.relay.clone();
        let (supervisor, _) = Actor::spawn(None, RelaySupervisor, arguments).await.unwrap();
        slot.fill(supervisor.clone());
        let crash = async || {
            relay.get().unwrap().kill_and_wait(None).await.unwrap();
            wait_until("crashed", || relay.get().is_none()).await;
        };

        crash().await;
        handle.restart().await.unwrap();
        tokio::time::advance(RESTART_DELAY / 2).await;
        crash().await;
        // The timer of the first crash fires now.
        tokio::time::advance(RESTART_DELAY / 2).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(relay.get().is_none(), "the second crash has a delay of its own");
        tokio::time::advance(RESTART_DELAY / 2).await;
        wait_until("restarted", || relay.get().is_some()).await;
        supervisor.stop_and_wait(None, None).await.unwrap();
    }
}
