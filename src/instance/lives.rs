//! Actors of instances: their beginnings, and their ends, wanted or not.

use std::sync::Arc;

use ractor::{Actor, ActorId, ActorRef};

use relevo_domain::{InstanceNumber, InstanceState, Reason};

use super::actor::{self, InstanceActor};
use super::directory::StateView;
use super::supervisor::{Child, Entry, Msg, ReportBox, State};

impl State {
    pub async fn start(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let Some(entry) = self.instances.get_mut(&number) else { return };
        entry.incarnation = incarnation;
        entry.missed = 0;
        let provider = match (self.arguments.open)(number, &entry.known.record.config) {
            Ok(provider) => provider,
            Err(error) => {
                return self.crashed(me, number, Reason::new("restarting", error.to_string())).await;
            }
        };
        entry.at_work.send_replace(Some(Arc::clone(&provider)));
        let supervisor = me.clone();
        let report =
            move |report| drop(supervisor.cast(Msg::Reported(number, incarnation, ReportBox(report))));
        let arguments = actor::Arguments {
            number,
            config: entry.known.record.config.clone(),
            options: self.arguments.options.clone(),
            clock: self.arguments.clock,
            provider,
            queue: self.arguments.queue.clone(),
            retry: self.arguments.retry.clone(),
            inbound: self.arguments.inbound.clone(),
            metrics: self.arguments.metrics.clone(),
            report: Box::new(report),
        };
        match Actor::spawn_linked(None, InstanceActor, arguments, me.get_cell()).await {
            Ok((actor, _)) => entry.child = Some(Child { id: actor.get_id(), actor }),
            Err(error) => self.crashed(me, number, Reason::new("restarting", error.to_string())).await,
        }
    }

    /// Ends an instance's actor on purpose: its end is no crash. Attempts under way report for themselves.
    pub fn stop(&mut self, number: InstanceNumber, reason: &str) {
        if let Some(entry) = self.instances.get_mut(&number)
            && let Some(child) = entry.child.take()
        {
            self.incarnations += 1;
            entry.incarnation = self.incarnations;
            entry.at_work.send_replace(None);
            child.actor.stop(Some(reason.to_owned()));
        }
    }

    /// A child's end that nobody asked for.
    pub async fn lost(&mut self, me: &ActorRef<Msg>, child: ActorId, cause: Reason) {
        let is_child = |entry: &Entry| entry.child.as_ref().is_some_and(|known| known.id == child);
        let Some(number) =
            self.instances.iter().find(|(_, entry)| is_child(entry)).map(|(number, _)| *number)
        else {
            return;
        };
        self.crashed(me, number, cause).await;
    }

    async fn crashed(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, cause: Reason) {
        let lifeless = cause.code == "zombie";
        self.arguments.metrics.client_lost(if lifeless { "zombie" } else { "crash" });
        self.incarnations += 1;
        let Some(entry) = self.instances.get_mut(&number) else { return };
        entry.child = None;
        entry.at_work.send_replace(None);
        entry.incarnation = self.incarnations;
        let (id, incarnation) = (entry.known.record.config.id.clone(), entry.incarnation);
        match entry.patience.crashed() {
            Some(pause) => {
                entry.state.send_modify(|view| view.restarts += 1);
                tracing::error!(instance = %id, cause = cause.text, ?pause, "an instance's client ended and will be replaced");
                self.show(number, StateView::new(InstanceState::Connecting, cause)).await;
                me.send_after(pause, move || Msg::Start(number, incarnation));
            }
            None => {
                let cause = cause.text;
                tracing::error!(instance = %id, cause, "an instance's client keeps ending; it is parked");
                let text =
                    format!("it ended too often within a minute, the last time because: {cause}; restart it");
                let reason = Reason::new("restart_limit", text);
                self.show(number, StateView::new(InstanceState::Failed, reason)).await;
            }
        }
    }
}
