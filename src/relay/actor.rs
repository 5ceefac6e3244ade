//! The relay at work: one courier in a task of its own, so that the actor always answers.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pusher::Pusher;

/// What the actor is told.
pub(super) enum Msg {
    /// From the courier's task: it ended, and why when it should not have.
    PusherEnded(Result<(), String>),
    /// From the supervisor: begin no attempt; answer when none is under way.
    Drain(RpcReplyPort<()>),
}

pub(super) struct RelayActor;

pub(super) struct State {
    /// The courier. Aborted when the actor ends, so that there are never two.
    tasks: JoinSet<()>,
    stop: CancellationToken,
    draining: Option<RpcReplyPort<()>>,
}

impl Actor for RelayActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Pusher;

    async fn pre_start(&self, me: ActorRef<Msg>, courier: Pusher) -> Result<State, ActorProcessingErr> {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let until = stop.clone();
        tasks.spawn(async move {
            let ended = AssertUnwindSafe(courier.run(until)).catch_unwind().await;
            let ended = ended.map_err(|_| "the courier panicked".to_owned());
            let _ =
                me.cast(Msg::PusherEnded(ended.and_then(|ended| ended.map_err(|error| error.to_string()))));
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
            // The next incarnation begins from what is written down.
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
