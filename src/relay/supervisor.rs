use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::Notify;

use crate::supervision::{RestartPolicy, Slot};
use relevo_clock::Clock;
use relevo_metrics::Metrics;
use relevo_store::Store;

use super::actor::{self, RelayActor};
use super::courier::Courier;
use super::handle::Relay;
use super::line::Peer;
use super::{Error, Handle, Intake, Options};

/// The pauses before a crashed relay is replaced. It is replaced for ever: the peer is owed its frames.
const RESTART_DELAY: Duration = Duration::from_millis(100);
const RESTART_MAX_DELAY: Duration = Duration::from_secs(5);

/// How long an actor may take to end.
const STOP_WAIT: Duration = Duration::from_secs(5);

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
    courier: Courier,
    /// Filled with each incarnation of the relay.
    relay: Slot<actor::Msg>,
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
        slot: Slot<Msg>,
    ) -> Result<(Option<Self>, Handle), Error> {
        let Some(url) = &options.url else { return Ok((None, Handle::off(store, clock))) };
        let peer = Peer::new(url, options.timeout)?;
        let (arrived, hurry, relay) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Slot::default());
        let intake = Intake::new(options.capacity, arrived.clone());
        let courier = Courier {
            store: store.clone(),
            metrics,
            peer: peer.clone(),
            retry_delay: options.retry_delay,
            arrived,
            hurry: hurry.clone(),
        };
        let known = Relay { slot, relay: relay.clone(), peer, hurry, capacity: options.capacity };
        let handle = Handle::new(store, clock, intake, known);
        Ok((Some(Self { courier, relay }), handle))
    }
}

pub struct State {
    arguments: Arguments,
    child: Option<ActorRef<actor::Msg>>,
    patience: RestartPolicy,
    draining: bool,
}

impl Actor for RelaySupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let patience = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
        let mut state = State { arguments, child: None, patience, draining: false };
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
        match Actor::spawn_linked(None, RelayActor, self.arguments.courier.clone(), me.get_cell()).await {
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
            let _ = child.stop_and_wait(reason, Some(STOP_WAIT)).await;
        }
        self.patience.reset();
        self.start(me).await;
    }

    fn crashed(&mut self, me: &ActorRef<Msg>, cause: &str) {
        self.child = None;
        self.arguments.relay.clear();
        let pause = self.patience.crashed().unwrap_or(RESTART_MAX_DELAY);
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
