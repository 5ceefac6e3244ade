//! Starts and stops the actors of instances, and restarts those that crash.
//!
//! Each start and each stop begins a new incarnation. Messages of earlier incarnations are ignored.

use std::sync::Arc;

use ractor::ActorRef;

use crate::supervisor::{ChildExit, Restart};
use relevo_domain::{InstanceNumber, InstanceState, Reason, ReasonCode};

use super::actor::{self, InstanceActor};
use super::directory::StateView;
use super::health_check::Unresponsive;
use super::supervisor::{Msg, ReportBox, State};

impl State {
    /// Starts the actor of an instance with a new client.
    pub async fn start(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) {
        let Some(entry) = self.instances.get_mut(&number) else { return };
        let incarnation = entry.child.begin();
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
            random: self.arguments.random.clone(),
            supervisor_ended: self.arguments.ended.clone(),
            provider,
            queue: self.arguments.queue.clone(),
            retry: self.arguments.retry.clone(),
            inbound: self.arguments.inbound.clone(),
            metrics: self.arguments.metrics.clone(),
            report: Box::new(report),
        };
        if let Err(error) = entry.child.spawn(InstanceActor, arguments, me.get_cell()).await {
            self.on_crash(me, number, Reason::new(ReasonCode::Restarting, error.to_string())).await;
        }
    }

    /// Stops the actor of an instance. This end does not count as a crash. Attempts in flight still report their outcome.
    pub fn stop(&mut self, number: InstanceNumber, reason: &str) {
        if let Some(entry) = self.instances.get_mut(&number)
            && entry.child.stop(reason)
        {
            entry.active_client.send_replace(None);
        }
    }

    /// Handles the end of an actor that was not stopped on purpose.
    pub async fn on_child_exit(&mut self, me: &ActorRef<Msg>, exit: ChildExit) {
        let mut entries = self.instances.iter();
        let Some((&number, _)) = entries.find(|(_, entry)| entry.child.is(exit.actor)) else { return };
        let is_unresponsive = exit.reason.is::<Unresponsive>();
        let code = if is_unresponsive { ReasonCode::Zombie } else { ReasonCode::Restarting };
        self.on_crash(me, number, Reason::new(code, exit.reason.text("the actor stopped"))).await;
    }

    /// Schedules a restart, or parks the instance after too many crashes.
    async fn on_crash(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, cause: Reason) {
        let is_unresponsive = cause.is(ReasonCode::Zombie);
        self.arguments.metrics.record_client_loss(if is_unresponsive { "zombie" } else { "crash" });
        let Some(entry) = self.instances.get_mut(&number) else { return };
        entry.active_client.send_replace(None);
        let id = entry.directory_entry.record.config.id.clone();
        match entry.child.crashed() {
            Restart::After(delay) => {
                entry.state.send_modify(|view| view.restarts += 1);
                tracing::error!(instance = %id, cause = cause.text, ?delay, "instance client stopped; restarting");
                entry.child.restart_after(delay, me, move |incarnation| Msg::Start(number, incarnation));
                self.set_state(number, StateView::new(InstanceState::Connecting, cause)).await;
            }
            Restart::Exhausted => {
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
