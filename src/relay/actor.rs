//! The actor of the relay. The pusher runs in a task, so that the actor always answers messages.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pusher::Pusher;

/// Messages of the actor.
pub(super) enum Msg {
    /// From the task of the pusher: it ended, with the cause if it failed.
    PusherEnded(Result<(), String>),
    /// From the supervisor: start no attempt, and reply when none is in flight.
    Drain(RpcReplyPort<()>),
}

/// The actor of the relay.
pub(super) struct RelayActor;

/// State of the actor.
pub(super) struct State {
    /// The task of the pusher. It is aborted when the actor ends, so that two pushers never run at once.
    tasks: JoinSet<()>,
    stop: CancellationToken,
    draining: Option<RpcReplyPort<()>>,
}

impl Actor for RelayActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Pusher;

    async fn pre_start(&self, me: ActorRef<Msg>, pusher: Pusher) -> Result<State, ActorProcessingErr> {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let until = stop.clone();
        tasks.spawn(async move {
            let ended = AssertUnwindSafe(pusher.run(until)).catch_unwind().await;
            let result = match ended {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("the pusher panicked".to_owned()),
            };
            let _ = me.cast(Msg::PusherEnded(result));
        });
        Ok(State { tasks, stop, draining: None })
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::PusherEnded(Ok(())) => {
                if let Some(reply) = state.draining.take() {
                    let _ = reply.send(());
                }
                Ok(())
            }
            // The next incarnation continues from the store.
            Msg::PusherEnded(Err(cause)) => Err(cause.into()),
            Msg::Drain(reply) => {
                state.draining = Some(reply);
                state.stop.cancel();
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.tasks.shutdown().await;
        Ok(())
    }
}
