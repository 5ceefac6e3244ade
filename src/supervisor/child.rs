//! One supervised child: its current incarnation, why its actor ended, and when it is restarted.
//!
//! The end of an actor counts as a crash only while that actor is the child. An actor that was stopped or released is no
//! longer the child.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, Message, SpawnErr, SupervisionEvent};
use tokio_util::task::AbortOnDropHandle;

use super::RestartPolicy;

/// One run of a child, from its start to the next start or stop. Unique in the process, so that a late report of an
/// earlier run is recognised, also when a child with the same key was deleted and created again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Why an actor ended.
#[derive(Debug)]
pub enum ExitReason {
    /// It was stopped or killed. With the reason, if one was given.
    Stopped(Option<String>),
    /// A handler returned an error or panicked.
    Failed(ActorProcessingErr),
}

impl ExitReason {
    /// Whether a handler returned an error of type `E`.
    pub fn is<E: std::error::Error + 'static>(&self) -> bool {
        matches!(self, Self::Failed(cause) if cause.is::<E>())
    }

    /// The reason in words; `unspecified` for a stop without a reason.
    pub fn text(&self, unspecified: &str) -> String {
        match self {
            Self::Stopped(reason) => reason.as_deref().unwrap_or(unspecified).to_owned(),
            Self::Failed(cause) => cause.to_string(),
        }
    }
}

/// The end of an actor, as reported to its supervisor.
#[derive(Debug)]
pub struct ChildExit {
    /// The actor that ended.
    pub actor: ActorId,
    /// Why it ended.
    pub reason: ExitReason,
}

impl ChildExit {
    /// The end that an event reports; `None` for an event of another kind.
    pub fn from_event(event: SupervisionEvent) -> Option<Self> {
        let (cell, reason) = match event {
            SupervisionEvent::ActorFailed(cell, cause) => (cell, ExitReason::Failed(cause)),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell, ExitReason::Stopped(reason)),
            _ => return None,
        };
        Some(Self { actor: cell.get_id(), reason })
    }
}

/// What follows a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The child starts again after the delay, if its incarnation is still current then.
    After(Duration),
    /// The child crashed too often; the supervisor decides.
    Exhausted,
}

impl Restart {
    /// The delay before the restart; `max_delay` for a child that restarts without a limit.
    pub fn delay_or(self, max_delay: Duration) -> Duration {
        match self {
            Self::After(delay) => delay,
            Self::Exhausted => max_delay,
        }
    }
}

/// A child of a supervisor: the actor that runs, if one does, and its restarts.
pub struct Child<M: Message> {
    actor: Option<ActorRef<M>>,
    incarnation: Incarnation,
    restarts: RestartPolicy,
    /// Waits for the delay of a restart.
    restart_timer: Option<AbortOnDropHandle<()>>,
}

impl<M: Message> Child<M> {
    /// A child that has not started yet.
    pub fn new(restarts: RestartPolicy) -> Self {
        Self { actor: None, incarnation: Incarnation::next(), restarts, restart_timer: None }
    }

    /// Begins a new incarnation, for the arguments of its actor. Earlier incarnations are no longer current.
    pub fn begin(&mut self) -> Incarnation {
        self.restart_timer = None;
        self.incarnation = Incarnation::next();
        self.incarnation
    }

    /// Starts the actor of the current incarnation, linked to its supervisor.
    ///
    /// # Errors
    ///
    /// The actor did not start. The caller decides whether this is a crash.
    pub async fn spawn<A: Actor<Msg = M>>(
        &mut self,
        handler: A,
        arguments: A::Arguments,
        supervisor: ActorCell,
    ) -> Result<(), SpawnErr> {
        let (actor, _) = Actor::spawn_linked(None, handler, arguments, supervisor).await?;
        self.actor = Some(actor);
        Ok(())
    }

    /// The running actor.
    pub fn actor(&self) -> Option<&ActorRef<M>> {
        self.actor.as_ref()
    }

    /// The latest incarnation. A crash does not end it; the next start or stop does.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether `incarnation` is the latest one, also after its crash.
    pub fn is_current(&self, incarnation: Incarnation) -> bool {
        self.incarnation == incarnation
    }

    /// Whether `incarnation` is the latest one and its actor has not crashed.
    pub fn is_running(&self, incarnation: Incarnation) -> bool {
        self.actor.is_some() && self.is_current(incarnation)
    }

    /// Whether `actor` is the running actor. Actors that were stopped or released are not.
    pub fn is(&self, actor: ActorId) -> bool {
        self.actor.as_ref().is_some_and(|running| running.get_id() == actor)
    }

    /// Stops the actor on purpose; `false` if none runs. Its end is no crash. Also ends the incarnation, so that later
    /// reports and a pending restart are not current.
    pub fn stop(&mut self, reason: &str) -> bool {
        let Some(actor) = self.release() else { return false };
        actor.stop(Some(reason.to_owned()));
        true
    }

    /// Returns the running actor to the caller, who stops it. Otherwise like [`stop`](Self::stop).
    pub fn release(&mut self) -> Option<ActorRef<M>> {
        self.begin();
        self.actor.take()
    }

    /// Records that the actor crashed or did not start.
    pub fn crashed(&mut self) -> Restart {
        self.actor = None;
        match self.restarts.record_crash() {
            Some(delay) => Restart::After(delay),
            None => Restart::Exhausted,
        }
    }

    /// Sends `message` to the supervisor after the delay, with the incarnation that ended. The next start or stop cancels
    /// it; a message that was sent before that is recognised by its incarnation.
    pub fn restart_after<S: Message>(
        &mut self,
        delay: Duration,
        supervisor: &ActorRef<S>,
        message: impl FnOnce(Incarnation) -> S + Send + 'static,
    ) {
        let (supervisor, incarnation) = (supervisor.clone(), self.incarnation);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = supervisor.cast(message(incarnation));
        });
        self.restart_timer = Some(AbortOnDropHandle::new(timer));
    }

    /// Clears the recorded crashes, after an operator has intervened.
    pub fn reset_restarts(&mut self) {
        self.restarts.reset();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const LIMIT: u32 = 2;

    /// How a test ends a [`Worker`].
    enum End {
        Error,
        Panic,
        Stop,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the worker failed")]
    struct WorkerError;

    struct Worker;

    impl Actor for Worker {
        type Msg = End;
        type State = ();
        /// Whether the actor starts.
        type Arguments = bool;

        async fn pre_start(&self, _: ActorRef<End>, starts: bool) -> Result<(), ActorProcessingErr> {
            if starts { Ok(()) } else { Err(WorkerError.into()) }
        }

        async fn handle(&self, me: ActorRef<End>, end: End, (): &mut ()) -> Result<(), ActorProcessingErr> {
            match end {
                End::Error => return Err(WorkerError.into()),
                End::Panic => panic!("the worker panicked"),
                End::Stop => me.stop(None),
            }
            Ok(())
        }
    }

    /// Passes the ends of its children to the test.
    struct Supervisor;

    impl Actor for Supervisor {
        type Msg = ();
        type State = mpsc::UnboundedSender<ChildExit>;
        type Arguments = Self::State;

        async fn pre_start(
            &self,
            _: ActorRef<()>,
            exits: Self::State,
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(exits)
        }

        async fn handle_supervisor_evt(
            &self,
            _: ActorRef<()>,
            event: SupervisionEvent,
            exits: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            if let Some(exit) = ChildExit::from_event(event) {
                exits.send(exit)?;
            }
            Ok(())
        }
    }

    /// A child under a supervisor.
    struct Fixture {
        supervisor: ActorRef<()>,
        exits: mpsc::UnboundedReceiver<ChildExit>,
        child: Child<End>,
    }

    impl Fixture {
        async fn new() -> Self {
            let (sender, exits) = mpsc::unbounded_channel();
            let (supervisor, _) = Actor::spawn(None, Supervisor, sender).await.unwrap();
            let restarts = RestartPolicy::new(Duration::from_secs(1), Duration::from_secs(30), LIMIT);
            Self { supervisor, exits, child: Child::new(restarts) }
        }

        async fn start(&mut self) -> Incarnation {
            let incarnation = self.child.begin();
            self.child.spawn(Worker, true, self.supervisor.get_cell()).await.unwrap();
            incarnation
        }

        async fn end(&mut self, end: End) -> ChildExit {
            self.child.actor().unwrap().cast(end).unwrap();
            self.exits.recv().await.unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn end_of_a_stopped_actor_is_no_crash() {
        let mut fixture = Fixture::new().await;
        let incarnation = fixture.start().await;
        assert!(fixture.child.is_running(incarnation));
        assert!(fixture.child.stop("requested"));
        assert!(!fixture.child.is_current(incarnation));
        let exit = fixture.exits.recv().await.unwrap();
        assert!(!fixture.child.is(exit.actor));
        assert_eq!(exit.reason.text("unspecified"), "requested");
        assert!(!fixture.child.stop("requested"));
    }

    #[tokio::test(start_paused = true)]
    async fn released_actor_runs_and_is_not_the_child() {
        let mut fixture = Fixture::new().await;
        let incarnation = fixture.start().await;
        let actor = fixture.child.release().unwrap();
        assert!(!fixture.child.is_current(incarnation) && !fixture.child.is(actor.get_id()));
        assert!(fixture.child.actor().is_none());
        actor.cast(End::Stop).unwrap();
        assert_eq!(fixture.exits.recv().await.unwrap().actor, actor.get_id());
    }

    #[tokio::test(start_paused = true)]
    async fn report_of_an_earlier_incarnation_is_not_current() {
        let mut fixture = Fixture::new().await;
        let first = fixture.start().await;
        let exit = fixture.end(End::Error).await;
        assert!(fixture.child.is(exit.actor));
        fixture.child.crashed();
        assert!(fixture.child.is_current(first), "a crash keeps the incarnation for its restart");
        assert!(!fixture.child.is_running(first));
        let second = fixture.start().await;
        assert!(!fixture.child.is_current(first) && !fixture.child.is(exit.actor));
        assert!(fixture.child.is_running(second));
    }

    #[tokio::test(start_paused = true)]
    async fn stop_cancels_a_pending_restart() {
        let mut fixture = Fixture::new().await;
        fixture.start().await;
        fixture.end(End::Error).await;
        fixture.child.crashed();
        let pending = fixture.child.incarnation();
        assert!(!fixture.child.stop("requested"));
        assert!(!fixture.child.is_current(pending));
    }

    #[tokio::test(start_paused = true)]
    async fn restart_timer_sends_the_incarnation_and_ends_with_it() {
        let mut fixture = Fixture::new().await;
        let (sender, mut restarts) = mpsc::unbounded_channel();
        let incarnation = fixture.start().await;
        fixture.end(End::Error).await;
        let record = sender.clone();
        let record = move |incarnation| {
            let _ = record.send(incarnation);
        };
        fixture.child.restart_after(Duration::from_secs(1), &fixture.supervisor, record);
        assert_eq!(restarts.recv().await, Some(incarnation));
        let record = move |incarnation| {
            let _ = sender.send(incarnation);
        };
        fixture.child.restart_after(Duration::from_secs(1), &fixture.supervisor, record);
        fixture.child.stop("requested");
        assert_eq!(restarts.recv().await, None, "the timer was cancelled");
    }

    #[tokio::test(start_paused = true)]
    async fn incarnation_of_a_recreated_child_is_unique() {
        let mut first = Fixture::new().await;
        let mut second = Fixture::new().await;
        let incarnation = first.start().await;
        second.start().await;
        assert!(!second.child.is_current(incarnation));
    }

    #[tokio::test(start_paused = true)]
    async fn crashes_double_the_delay_until_they_exceed_the_limit() {
        let mut fixture = Fixture::new().await;
        assert_eq!(fixture.child.crashed(), Restart::After(Duration::from_secs(1)));
        assert_eq!(fixture.child.crashed(), Restart::After(Duration::from_secs(2)));
        assert_eq!(fixture.child.crashed(), Restart::Exhausted);
        assert_eq!(Restart::Exhausted.delay_or(Duration::from_secs(30)), Duration::from_secs(30));
        fixture.child.reset_restarts();
        assert_eq!(fixture.child.crashed(), Restart::After(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(fixture.child.crashed(), Restart::After(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_are_failures() {
        let mut fixture = Fixture::new().await;
        fixture.start().await;
        let error = fixture.end(End::Error).await.reason;
        assert!(matches!(error, ExitReason::Failed(_)) && error.is::<WorkerError>());
        assert!(!error.is::<std::io::Error>());
        assert_eq!(error.text("unspecified"), "the worker failed");
        fixture.start().await;
        let panic = fixture.end(End::Panic).await.reason;
        assert!(matches!(panic, ExitReason::Failed(_)) && !panic.is::<WorkerError>());
        assert!(panic.text("unspecified").contains("the worker panicked"));
    }

    #[tokio::test(start_paused = true)]
    async fn stop_without_a_reason_has_the_text_of_the_supervisor() {
        let mut fixture = Fixture::new().await;
        fixture.start().await;
        let reason = fixture.end(End::Stop).await.reason;
        assert!(matches!(reason, ExitReason::Stopped(None)) && !reason.is::<WorkerError>());
        assert_eq!(reason.text("unspecified"), "unspecified");
    }

    #[tokio::test(start_paused = true)]
    async fn actor_that_does_not_start_is_not_running() {
        let mut fixture = Fixture::new().await;
        let incarnation = fixture.child.begin();
        let started = fixture.child.spawn(Worker, false, fixture.supervisor.get_cell()).await;
        assert!(started.unwrap_err().to_string().contains("the worker failed"));
        assert!(fixture.child.is_current(incarnation) && !fixture.child.is_running(incarnation));
    }
}
