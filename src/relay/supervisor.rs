use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::Notify;

use crate::supervisor::{ActorSlot, RestartPolicy};
use relevo_clock::Clock;
use relevo_metrics::Metrics;
use relevo_store::Store;

use super::actor::{self, RelayActor};
use super::handle::ActiveRelay;
use super::pusher::Pusher;
use super::websocket::RelayPeer;
use super::{Error, FrameQueue, Handle, Options};

/// The pauses before a crashed relay is replaced. It is replaced for ever: the peer is owed its frames.
const RESTART_DELAY: Duration = Duration::from_millis(100);
const RESTART_MAX_DELAY: Duration = Duration::from_secs(5);

/// How long an actor may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the supervisor is told.
pub enum Msg {
    /// From handles: replace the relay. When this is answered, another one is at work.
    Restart(RpcReplyPort<()>),
    /// From the node as it stops: answer when no attempt is under way.
    Drain(RpcReplyPort<()>),
    /// From its own timer: the relay has waited long enough to be started again.
    Start,
}

/// The parent of the relay.
pub struct RelaySupervisor;

pub struct Arguments {
    pusher: Pusher,
    /// Filled with each incarnation of the relay.
    relay: ActorSlot<actor::Msg>,
}

impl Arguments {
    /// What the supervisor is made of, unless nothing is to be relayed; and the handle, in either case.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up.
    pub fn new(
        options: &Options,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        slot: ActorSlot<Msg>,
    ) -> Result<(Option<Self>, Handle), Error> {
        let Some(url) = &options.url else { return Ok((None, Handle::disabled(store, clock))) };
        let peer = RelayPeer::new(url, options.timeout)?;
        let (arrived, hurry, relay) =
            (Arc::new(Notify::new()), Arc::new(Notify::new()), ActorSlot::default());
        let intake = FrameQueue::new(options.capacity, arrived.clone());
        let courier = Pusher {
            store: store.clone(),
            metrics,
            peer: peer.clone(),
            retry_delay: options.retry_delay,
            frame_added: arrived,
            retry_now: hurry.clone(),
        };
        let known =
            ActiveRelay { slot, relay: relay.clone(), peer, retry_now: hurry, capacity: options.capacity };
        let handle = Handle::new(store, clock, intake, known);
        Ok((Some(Self { pusher: courier, relay }), handle))
    }
}

pub struct State {
    arguments: Arguments,
    child: Option<ActorRef<actor::Msg>>,
    restart_policy: RestartPolicy,
    draining: bool,
}

impl Actor for RelaySupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let patience = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
        let mut state = State { arguments, child: None, restart_policy: patience, draining: false };
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
            Msg::Start => state.start(&me).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, cause) = match event {
            SupervisionEvent::ActorFailed(cell, cause) => (cell, cause.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell, reason.unwrap_or_default()),
            _ => return Ok(()),
        };
        // One that was stopped on purpose is not the child any more.
        if state.child.as_ref().is_some_and(|child| child.get_id() == cell.get_id()) {
            state.crashed(&me, &cause);
        }
        Ok(())
    }
}

impl State {
    /// Starts the relay, unless it runs or must not.
    async fn start(&mut self, me: &ActorRef<Msg>) {
        if self.child.is_some() || self.draining {
            return;
        }
        match Actor::spawn_linked(None, RelayActor, self.arguments.pusher.clone(), me.get_cell()).await {
            Ok((actor, _)) => {
                self.arguments.relay.fill(actor.clone());
                self.child = Some(actor);
            }
            Err(error) => self.crashed(me, &error.to_string()),
        }
    }

    async fn restart(&mut self, me: &ActorRef<Msg>) {
        if let Some(child) = self.child.take() {
            self.arguments.relay.clear();
            let reason = Some("replaced by hand".to_owned());
            let _ = child.stop_and_wait(reason, Some(STOP_TIMEOUT)).await;
        }
        self.restart_policy.reset();
        self.start(me).await;
    }

    fn crashed(&mut self, me: &ActorRef<Msg>, cause: &str) {
        self.child = None;
        self.arguments.relay.clear();
        let pause = self.restart_policy.record_crash().unwrap_or(RESTART_MAX_DELAY);
        tracing::error!(cause, ?pause, "the relay ended and will be started again");
        me.send_after(pause, || Msg::Start);
    }

    fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let child = self.child.clone();
        tokio::spawn(async move {
            if let Some(child) = child {
                let _ = child.call(actor::Msg::Drain, None).await;
            }
            let _ = reply.send(());
        });
    }
}
