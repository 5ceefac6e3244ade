use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::queue::{self, Lease, QueueActor};
use crate::supervisor::{ActorSlot, RestartPolicy};
use relevo_domain::{
    FailedAttempt, Failure, FailureKind, MessageId, RetryDecision, decide_expired_hold, decide_retry,
};

use super::Options;

/// How often abandoned attempts are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often old records are forgotten, while there are none left over from the last time.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// What the supervisor is told.
pub enum Msg {
    /// From instances: an attempt failed.
    AttemptFailed(Box<Lease>, Failure),
    /// From its own timer: look for attempts that nobody will report about.
    Sweep,
    /// From a finished sweep; `true` when there may be more.
    SweepDone(bool),
    /// From its own timer: forget old records.
    RunRetention,
    /// From a finished page of upkeep: where the next begins.
    RetentionPageDone(Option<MessageId>),
    /// From its own timer: the queue's actor has waited long enough to be started again.
    RestartQueue,
}

/// Parent of the queue's actor, judge of failures.
pub struct RetrySupervisor;

pub struct Arguments {
    pub options: Options,
    pub queue: queue::Arguments,
    /// Filled with each incarnation of the queue's actor.
    pub queue_slot: ActorSlot<queue::Msg>,
    pub queue_handle: queue::Handle,
}

pub struct State {
    arguments: Arguments,
    restart_policy: RestartPolicy,
    is_sweeping: bool,
}

impl Actor for RetrySupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let patience = RestartPolicy::new(Duration::from_millis(100), Duration::from_secs(5), 10);
        let state = State { arguments, restart_policy: patience, is_sweeping: false };
        state.start_queue(&me).await?;
        me.send_interval(SWEEP_INTERVAL, || Msg::Sweep);
        me.send_interval(RETENTION_INTERVAL, || Msg::RunRetention);
        // Attempts that the previous run left behind are judged at once.
        me.cast(Msg::Sweep)?;
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::AttemptFailed(lease, failure) => state.decide(*lease, failure),
            Msg::Sweep => state.sweep(me),
            Msg::SweepDone(more) => {
                state.is_sweeping = false;
                if more {
                    me.cast(Msg::Sweep)?;
                }
            }
            Msg::RunRetention => state.run_retention(me, None),
            Msg::RetentionPageDone(next) => {
                if next.is_some() {
                    state.run_retention(me, next);
                }
            }
            Msg::RestartQueue => state.start_queue(&me).await?,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let cause = match event {
            SupervisionEvent::ActorFailed(_, cause) => cause.to_string(),
            SupervisionEvent::ActorTerminated(_, _, reason) => reason.unwrap_or_else(|| "stopped".to_owned()),
            _ => return Ok(()),
        };
        state.arguments.queue_slot.clear();
        match state.restart_policy.record_crash() {
            Some(pause) => {
                tracing::error!(cause, ?pause, "the queue's actor ended and will be started again");
                me.send_after(pause, || Msg::RestartQueue);
                Ok(())
            }
            None => Err(format!("the queue's actor keeps ending: {cause}").into()),
        }
    }
}

impl State {
    async fn start_queue(&self, me: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        let arguments = self.arguments.queue.clone();
        let (queue, _) = Actor::spawn_linked(None, QueueActor, arguments, me.get_cell()).await?;
        self.arguments.queue_slot.fill(queue);
        Ok(())
    }

    fn decide(&self, lease: Lease, failure: Failure) {
        let policy = self.arguments.options.policy(lease.id.class());
        let verdict = decide_retry(policy, failed_attempt(&lease), &failure, rand::random());
        log_decision(&lease, verdict, &failure);
        // A queue that is being restarted leaves the lease to expire: the sweep finds it.
        let _ = self.arguments.queue_handle.apply_decision(lease, verdict, failure);
    }

    /// Looks for abandoned attempts, in a task: the queue's actor may be gone, and only this one can bring it back.
    fn sweep(&mut self, me: ActorRef<Msg>) {
        if std::mem::replace(&mut self.is_sweeping, true) {
            return;
        }
        let (queue, options) = (self.arguments.queue_handle.clone(), self.arguments.options.clone());
        tokio::spawn(async move {
            let found = queue.find_overdue().await.unwrap_or_default();
            let more = !found.is_empty();
            for (lease, held) in found {
                let (verdict, failure) =
                    if held { decide_held(&options, &lease) } else { decide_abandoned(&options, &lease) };
                log_decision(&lease, verdict, &failure);
                let _ = queue.apply_decision(lease, verdict, failure);
            }
            let _ = me.cast(Msg::SweepDone(more));
        });
    }

    fn run_retention(&self, me: ActorRef<Msg>, from: Option<MessageId>) {
        let queue = self.arguments.queue_handle.clone();
        tokio::spawn(async move {
            let next = queue.run_retention(from).await.unwrap_or(None);
            let _ = me.cast(Msg::RetentionPageDone(next));
        });
    }
}

/// An attempt whose end nobody will report: its process or its instance died.
fn decide_abandoned(options: &Options, lease: &Lease) -> (RetryDecision, Failure) {
    let failure = Failure::ambiguous(
        "the attempt was interrupted before WhatsApp's answer was known; it may or may not have been sent",
    );
    let policy = options.policy(lease.id.class());
    (decide_retry(policy, failed_attempt(lease), &failure, 0.0), failure)
}

/// An unknown outcome that no status settled in time.
fn decide_held(options: &Options, lease: &Lease) -> (RetryDecision, Failure) {
    let failure = Failure::ambiguous(
        "no status told in time whether WhatsApp took the message; it may or may not have been sent",
    );
    (
        decide_expired_hold(options.policy(lease.id.class()), failed_attempt(lease), lease.on_ambiguous),
        failure,
    )
}

/// What the judge wants to know of a message whose attempt failed.
fn failed_attempt(lease: &Lease) -> FailedAttempt {
    FailedAttempt { mode: lease.mode, repeatable: lease.repeatable, attempts: lease.failures + 1 }
}

/// One line for each decision.
fn log_decision(lease: &Lease, verdict: RetryDecision, failure: &Failure) {
    let (message_id, attempt, kind, code) = (lease.id, lease.attempt, failure.kind.as_str(), failure.code);
    match verdict {
        RetryDecision::Bury(reason) => {
            let reason = reason.as_str();
            tracing::warn!(%message_id, attempt, kind, code, reason, cause = %failure.message, "message is a dead letter");
        }
        RetryDecision::Hold { .. } => {
            tracing::warn!(%message_id, attempt, cause = %failure.message, "message has an unknown outcome");
        }
        RetryDecision::Fail => {
            tracing::info!(%message_id, kind, code, cause = %failure.message, "message failed")
        }
        RetryDecision::Retry { after, .. } | RetryDecision::Defer { after } => {
            if failure.kind != FailureKind::LoggedOut {
                tracing::info!(%message_id, attempt, kind, code, ?after, cause = %failure.message, "message will be tried again");
            }
        }
    }
}
