//! The actor that decides about failed and overdue attempts, runs retention, and restarts the queue's actor.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio_util::task::AbortOnDropHandle;

use crate::queue::{self, Lease, QueueActor};
use crate::supervisor::{ActorSlot, Child, ChildExit, Incarnation, Restart, RestartPolicy};
use relevo_clock::Random;
use relevo_domain::{FailedAttempt, Failure, FailureKind, MessageId, RetryDecision, decide_retry};

use super::Options;

/// Interval between searches for overdue attempts.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Interval between runs of retention. One run continues until no expired records are left.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// Messages to the supervisor.
pub enum Msg {
    /// From instances: an attempt failed.
    AttemptFailed(Box<Lease>, Failure),
    /// From its own timer: search for overdue attempts.
    Sweep,
    /// From a finished search; `true` when there may be more.
    SweepDone(bool),
    /// From its own timer: delete expired records.
    RunRetention,
    /// From a finished page of retention: where the next page begins.
    RetentionPageDone(Option<MessageId>),
    /// From its own timer, with the incarnation that crashed: the restart delay of the queue's actor is over.
    RestartQueue(Incarnation),
}

/// The retry supervisor, parent of the queue's actor.
pub struct RetrySupervisor;

/// The dependencies of the supervisor.
pub struct Arguments {
    /// The retry policies.
    pub options: Options,
    /// The jitter of the delays.
    pub random: Random,
    /// The dependencies of the queue's actor.
    pub queue: queue::Arguments,
    /// Filled with each incarnation of the queue's actor.
    pub queue_slot: ActorSlot<queue::Msg>,
    /// Applies the decisions.
    pub queue_handle: queue::Handle,
}

/// The state of the supervisor.
pub struct State {
    arguments: Arguments,
    /// The queue's actor.
    queue: Child<queue::Msg>,
    /// The search for overdue attempts that runs.
    sweep: Option<AbortOnDropHandle<()>>,
    /// The page of retention that runs.
    retention: Option<AbortOnDropHandle<()>>,
    _timers: [AbortOnDropHandle<()>; 2],
}

impl Actor for RetrySupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let restarts = RestartPolicy::new(Duration::from_millis(100), Duration::from_secs(5), 10);
        let timers = [
            me.send_interval(SWEEP_INTERVAL, || Msg::Sweep),
            me.send_interval(RETENTION_INTERVAL, || Msg::RunRetention),
        ];
        let mut state = State {
            arguments,
            queue: Child::new(restarts),
            sweep: None,
            retention: None,
            _timers: timers.map(AbortOnDropHandle::new),
        };
        state.start_queue(&me).await?;
        // Attempts of the previous run are overdue at once.
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
                state.sweep = None;
                if more {
                    me.cast(Msg::Sweep)?;
                }
            }
            Msg::RunRetention => {
                if state.retention.is_none() {
                    state.run_retention(me, None);
                }
            }
            Msg::RetentionPageDone(next) => {
                state.retention = None;
                if next.is_some() {
                    state.run_retention(me, next);
                }
            }
            Msg::RestartQueue(incarnation) => {
                if state.queue.is_current(incarnation) {
                    state.start_queue(&me).await?;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(exit) = ChildExit::from_event(event).filter(|exit| state.queue.is(exit.actor)) else {
            return Ok(());
        };
        let cause = exit.reason.text("stopped");
        state.arguments.queue_slot.clear();
        match state.queue.crashed() {
            Restart::After(delay) => {
                tracing::error!(cause, ?delay, "queue actor stopped; restarting");
                state.queue.restart_after(delay, &me, Msg::RestartQueue);
                Ok(())
            }
            Restart::Exhausted => Err(format!("the queue actor stopped too often: {cause}").into()),
        }
    }
}

impl State {
    async fn start_queue(&mut self, me: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        self.queue.begin();
        self.queue.spawn(QueueActor, self.arguments.queue.clone(), me.get_cell()).await?;
        if let Some(actor) = self.queue.actor() {
            self.arguments.queue_slot.fill(actor.clone());
        }
        Ok(())
    }

    fn decide(&self, lease: Lease, failure: Failure) {
        let policy = self.arguments.options.policy(lease.id.class());
        let decision = decide_retry(policy, failed_attempt(&lease), &failure, self.arguments.random.value());
        log_decision(&lease, decision, &failure);
        // If the queue's actor is being restarted, the lease expires and the sweep finds it.
        let _ = self.arguments.queue_handle.apply_decision(lease, decision, failure);
    }

    /// Decides about overdue attempts, in a task: the queue's actor may be gone, and this actor must stay free to restart
    /// it.
    fn sweep(&mut self, me: ActorRef<Msg>) {
        if self.sweep.is_some() {
            return;
        }
        let (queue, options) = (self.arguments.queue_handle.clone(), self.arguments.options.clone());
        let sweep = tokio::spawn(async move {
            let found = queue.find_overdue().await.unwrap_or_default();
            let more = !found.is_empty();
            for (lease, overdue) in found {
                let policy = options.policy(lease.id.class());
                let decision = overdue.decide_retry(policy, failed_attempt(&lease), 0.0);
                let failure = overdue.failure();
                log_decision(&lease, decision, &failure);
                let _ = queue.apply_decision(lease, decision, failure);
            }
            let _ = me.cast(Msg::SweepDone(more));
        });
        self.sweep = Some(AbortOnDropHandle::new(sweep));
    }

    fn run_retention(&mut self, me: ActorRef<Msg>, from: Option<MessageId>) {
        let queue = self.arguments.queue_handle.clone();
        let retention = tokio::spawn(async move {
            let next = queue.run_retention(from).await.unwrap_or(None);
            let _ = me.cast(Msg::RetentionPageDone(next));
        });
        self.retention = Some(AbortOnDropHandle::new(retention));
    }
}

/// The facts for the decision about a lease.
fn failed_attempt(lease: &Lease) -> FailedAttempt {
    FailedAttempt {
        mode: lease.mode,
        repeatable: lease.repeatable,
        on_ambiguous: lease.on_ambiguous,
        attempts: lease.failures.saturating_add(1),
        uncounted: lease.attempt.saturating_sub(lease.failures.saturating_add(1)),
    }
}

/// Logs one line for each decision.
fn log_decision(lease: &Lease, decision: RetryDecision, failure: &Failure) {
    let (message_id, attempt, kind, code) = (lease.id, lease.attempt, failure.kind.as_str(), failure.code);
    match decision {
        RetryDecision::Bury(reason) => {
            let reason = reason.as_str();
            tracing::warn!(%message_id, attempt, kind, code, reason, cause = %failure.message, "message buried as dead letter");
        }
        RetryDecision::Hold { .. } => {
            tracing::warn!(%message_id, attempt, cause = %failure.message, "message outcome unknown; holding its lane");
        }
        RetryDecision::Fail => {
            tracing::info!(%message_id, kind, code, cause = %failure.message, "message failed")
        }
        RetryDecision::Retry { after, .. } | RetryDecision::Defer { after } => {
            if failure.kind != FailureKind::LoggedOut {
                tracing::info!(%message_id, attempt, kind, code, ?after, cause = %failure.message, "attempt failed; message will be retried");
            }
        }
    }
}
