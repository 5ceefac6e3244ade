//! Starts and stops the actors of instances, and restarts those that crash.
//!
//! Each start and each end has a new incarnation number. Messages of earlier incarnations are ignored.

use std::sync::Arc;

use ractor::{Actor, ActorId, ActorRef};

use relevo_domain::{InstanceNumber, InstanceState, Reason, ReasonCode};

use super::actor::{self, InstanceActor};
use super::directory::StateView;
use super::supervisor::{InstanceChild, InstanceEntry, Msg, ReportBox, State};

impl State {
    /// Starts the actor of an instance with a new client.
    pub async fn start(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) {
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        let Some(entry) = self.instances.get_mut(&number) else { return };
        entry.incarnation = incarnation;
        entry.missed_pings = 0;
        let provider = match (self.arguments.open_provider)(number, &entry.directory_entry.record.config) {
            Ok(provider) => provider,
            Err(error) => {
                return self
                    .on_crash(me, number, Reason::new(ReasonCode::Restarting, error.to_string()))
                    .await;
            }
        };
        entry.active_client.send_replace(Some(Arc::clone(&provider)));
        let supervisor = me.clone();
        let report =
            move |report| drop(supervisor.cast(Msg::Reported(number, incarnation, ReportBox(report))));
        let arguments = actor::Arguments {
            number,
            config: entry.directory_entry.record.config.clone(),
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
            Ok((actor, _)) => entry.child = Some(InstanceChild { id: actor.get_id(), actor }),
            Err(error) => {
                self.on_crash(me, number, Reason::new(ReasonCode::Restarting, error.to_string())).await
            }
        }
    }

    /// Stops the actor of an instance. This end does not count as a crash. Attempts in flight still report their outcome.
    pub fn stop(&mut self, number: InstanceNumber, reason: &str) {
        if let Some(entry) = self.instances.get_mut(&number)
            && let Some(child) = entry.child.take()
        {
            self.last_incarnation += 1;
            entry.incarnation = self.last_incarnation;
            entry.active_client.send_replace(None);
            child.actor.stop(Some(reason.to_owned()));
        }
    }

    /// Handles the end of an actor that was not stopped on purpose.
    pub async fn on_child_ended(&mut self, me: &ActorRef<Msg>, child: ActorId, cause: Reason) {
        let is_child =
            |entry: &InstanceEntry| entry.child.as_ref().is_some_and(|running| running.id == child);
        let Some(number) =
            self.instances.iter().find(|(_, entry)| is_child(entry)).map(|(number, _)| *number)
        else {
            return;
        };
        self.on_crash(me, number, cause).await;
    }

    /// Schedules a restart, or parks the instance after too many crashes.
    async fn on_crash(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, cause: Reason) {
        let is_unresponsive = cause.is(ReasonCode::Zombie);
        self.arguments.metrics.record_client_loss(if is_unresponsive { "zombie" } else { "crash" });
        self.last_incarnation += 1;
        let Some(entry) = self.instances.get_mut(&number) else { return };
        entry.child = None;
        entry.active_client.send_replace(None);
        entry.incarnation = self.last_incarnation;
        let (id, incarnation) = (entry.directory_entry.record.config.id.clone(), entry.incarnation);
        match entry.restart_policy.record_crash() {
            Some(delay) => {
                entry.state.send_modify(|view| view.restarts += 1);
                tracing::error!(instance = %id, cause = cause.text, ?delay, "instance client stopped; restarting");
                self.set_state(number, StateView::new(InstanceState::Connecting, cause)).await;
                me.send_after(delay, move || Msg::Start(number, incarnation));
            }
            None => {
                let cause = cause.text;
                tracing::error!(instance = %id, cause, "instance client keeps stopping; instance parked as failed");
                let text = format!(
                    "the client stopped too often within a minute, last: {cause}; restart the instance"
                );
                let reason = Reason::new(ReasonCode::RestartLimit, text);
                self.set_state(number, StateView::new(InstanceState::Failed, reason)).await;
            }
        }
    }
}
