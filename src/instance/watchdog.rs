//! What the supervisor asks of all its actors at once: signs of life, and an end in good order.

use std::time::Duration;

use ractor::{ActorRef, RpcReplyPort};

use relevo_domain::InstanceNumber;

use super::actor;
use super::supervisor::{Msg, State};

/// So many unanswered questions in a row, and an actor counts as hung.
const MAX_MISSED_PINGS: u32 = 3;

impl State {
    pub fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let children = self.instances.values().filter_map(|entry| entry.child.as_ref());
        let actors: Vec<_> = children.map(|child| child.actor.clone()).collect();
        tokio::spawn(async move {
            futures_util::future::join_all(actors.iter().map(|actor| actor.call(actor::Msg::Drain, None)))
                .await;
            let _ = reply.send(());
        });
    }

    /// Asks every actor for a sign of life, without waiting for any.
    pub fn ping_actors(&self, me: &ActorRef<Msg>) {
        let patience: Duration = self.arguments.options.probe_timeout;
        for (&number, entry) in &self.instances {
            let Some(child) = &entry.child else { continue };
            let (supervisor, actor, incarnation) = (me.clone(), child.actor.clone(), entry.incarnation);
            tokio::spawn(async move {
                let answer = actor.call(actor::Msg::Ping, Some(patience)).await;
                let answered = matches!(answer, Ok(ractor::rpc::CallResult::Success(())));
                let _ = supervisor.cast(Msg::PingResult(number, incarnation, answered));
            });
        }
    }

    pub fn on_ping_result(&mut self, number: InstanceNumber, incarnation: u64, answered: bool) {
        let Some(entry) = self.instances.get_mut(&number).filter(|entry| entry.incarnation == incarnation)
        else {
            return;
        };
        entry.missed_pings = if answered { 0 } else { entry.missed_pings + 1 };
        if entry.missed_pings >= MAX_MISSED_PINGS
            && let Some(child) = &entry.child
        {
            tracing::error!(instance = %entry.directory_entry.record.config.id, "an instance's actor answers nothing and is killed");
            child.actor.kill();
        }
    }
}
