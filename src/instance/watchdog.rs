//! Pings every actor at an interval and kills actors that do not answer; drains all actors when the node stops.

use std::time::Duration;

use ractor::{ActorRef, RpcReplyPort};

use crate::supervisor::Incarnation;
use relevo_domain::InstanceNumber;

use super::actor;
use super::supervisor::{Msg, State};

/// Number of pings missed in a row after which an actor is killed.
const MAX_MISSED_PINGS: u32 = 3;

impl State {
    /// Asks every actor to drain, and replies when all have.
    pub fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let running = self.instances.values().filter_map(|entry| entry.child.actor());
        let actors: Vec<_> = running.cloned().collect();
        tokio::spawn(async move {
            futures_util::future::join_all(actors.iter().map(|actor| actor.call(actor::Msg::Drain, None)))
                .await;
            let _ = reply.send(());
        });
    }

    /// Pings every actor, each in a task.
    pub fn ping_actors(&self, me: &ActorRef<Msg>) {
        let timeout: Duration = self.arguments.options.probe_timeout;
        for (&number, entry) in &self.instances {
            let Some(actor) = entry.child.actor().cloned() else { continue };
            let (supervisor, incarnation) = (me.clone(), entry.child.incarnation());
            tokio::spawn(async move {
                let answer = actor.call(actor::Msg::Ping, Some(timeout)).await;
                let answered = matches!(answer, Ok(ractor::rpc::CallResult::Success(())));
                let _ = supervisor.cast(Msg::PingResult(number, incarnation, answered));
            });
        }
    }

    /// Counts missed pings. Kills an actor that missed too many; its end is handled as a crash.
    pub fn on_ping_result(&mut self, number: InstanceNumber, incarnation: Incarnation, answered: bool) {
        let entry = self.instances.get_mut(&number);
        let Some(entry) = entry.filter(|entry| entry.child.is_running(incarnation)) else { return };
        entry.missed_pings = if answered { 0 } else { entry.missed_pings + 1 };
        if entry.missed_pings >= MAX_MISSED_PINGS
            && let Some(actor) = entry.child.actor()
        {
            tracing::error!(instance = %entry.directory_entry.record.config.id, "actor does not answer pings; killing it, instance restarts");
            actor.kill();
        }
    }
}
