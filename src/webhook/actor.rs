//! The actor of one endpoint. It schedules the streams of the endpoint: one stream per instance, which are idle, ready,
//! running or waiting for a retry.
//!
//! The actor does no network or disk I/O: it runs each time slice of a stream in a task and receives its result. The
//! tasks end with the actor, so two incarnations never deliver at once.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::events;
use relevo_domain::{InstanceId, InstanceNumber};

use super::endpoint::EndpointRuntime;
use super::log_reader::{self, NextStep, SliceEnd, TimeSlice};
use super::retry::Failures;
use super::storage::Cursor;
use super::supervisor::{EndpointContext, InstanceIds};

/// Messages of the actor.
pub(super) enum Msg {
    /// From the forwarder: a log has new events, or the list of instances changed.
    Poll,
    /// From the task of a time slice: its result, or the error that ended it.
    SliceEnded(InstanceNumber, Result<SliceEnd, String>),
    /// From a timer, with the number of the wait: the next attempt is due.
    RetryDue(InstanceNumber, u64),
    /// From the supervisor: start no attempt, and reply when none is in flight.
    Drain(RpcReplyPort<()>),
}

/// The actor of one endpoint.
pub(super) struct EndpointActor;

/// Arguments of the actor.
pub(super) struct Arguments {
    pub runtime: Arc<EndpointRuntime>,
    pub shared: EndpointContext,
    /// Called when the endpoint must be disabled, with the instance whose event failed.
    pub on_give_up: Box<dyn Fn(InstanceNumber, Failures) + Send + Sync>,
}

/// State of the actor.
pub(super) struct State {
    me: ActorRef<Msg>,
    arguments: Arguments,
    streams: HashMap<InstanceNumber, Stream>,
    /// Streams with undelivered events, in the order in which they get a time slice.
    ready: VecDeque<InstanceNumber>,
    /// Number of running time slices.
    running: usize,
    /// Set while a [`Msg::Poll`] is in the mailbox, so that many changes cause one message.
    poll_pending: Arc<AtomicBool>,
    wait_count: u64,
    /// The tasks of time slices and of the forwarder. They are aborted when the actor ends.
    tasks: JoinSet<()>,
    stop: CancellationToken,
    draining: Option<RpcReplyPort<()>>,
}

/// The deliveries of one instance.
struct Stream {
    name: InstanceId,
    /// `None` before the first time slice.
    cursor: Option<Cursor>,
    phase: Phase,
}

/// State of a stream.
enum Phase {
    /// All events of the log are delivered.
    Idle,
    /// Waits for a time slice.
    Ready,
    Running(AbortHandle),
    /// Waits for a retry. The number identifies the wait.
    Waiting {
        wait: u64,
        _timer: AbortOnDropHandle<Result<(), MessagingErr<Msg>>>,
    },
    /// Ended until the actor is replaced.
    Stopped,
}

impl Actor for EndpointActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let poll_pending = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let scope = arguments.runtime.endpoint.scope;
        let tails = events::watch(&arguments.shared.store, scope.instance());
        tasks.spawn(forward_changes(
            tails,
            arguments.shared.instances.clone(),
            poll_pending.clone(),
            me.clone(),
        ));
        Ok(State {
            me,
            arguments,
            streams: HashMap::new(),
            ready: VecDeque::new(),
            running: 0,
            poll_pending,
            wait_count: 0,
            tasks,
            stop: CancellationToken::new(),
            draining: None,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Poll => {
                state.poll_pending.store(false, Ordering::Release);
                state.sync_instances();
                state.poll();
            }
            Msg::SliceEnded(instance, result) => state.on_slice_end(instance, result)?,
            Msg::RetryDue(instance, wait) => state.on_retry_due(instance, wait),
            Msg::Drain(reply) => {
                state.stop.cancel();
                state.draining = Some(reply);
            }
        }
        // A `JoinSet` keeps finished tasks until they are joined.
        while state.tasks.try_join_next().is_some() {}
        state.start_slices();
        if state.running == 0
            && let Some(reply) = state.draining.take()
        {
            let _ = reply.send(());
        }
        Ok(())
    }
}

/// Forwards changes as [`Msg::Poll`], one at a time.
async fn forward_changes(
    mut tails: watch::Receiver<()>,
    mut instances: watch::Receiver<InstanceIds>,
    poll_pending: Arc<AtomicBool>,
    actor: ActorRef<Msg>,
) {
    loop {
        if !poll_pending.swap(true, Ordering::AcqRel) && actor.cast(Msg::Poll).is_err() {
            return;
        }
        tokio::select! {
            Ok(()) = tails.changed() => {}
            Ok(()) = instances.changed() => {}
            else => return,
        }
    }
}

impl State {
    /// Adds streams for new instances and removes those of deleted instances.
    fn sync_instances(&mut self) {
        let listed = self.arguments.shared.instances.borrow().clone();
        let scope = self.arguments.runtime.endpoint.scope;
        let mut before = std::mem::take(&mut self.streams);
        for (number, name) in listed.iter().filter(|(number, _)| scope.includes(*number)) {
            let stream = before.remove(number).unwrap_or_else(|| Stream {
                name: name.clone(),
                cursor: None,
                phase: Phase::Idle,
            });
            self.streams.insert(*number, stream);
        }
        for (number, removed) in before {
            if let Phase::Running(task) = removed.phase {
                task.abort();
                self.running -= 1;
            }
            self.arguments.runtime.health.clear_failures(number);
        }
        self.ready.retain(|number| self.streams.contains_key(number));
    }

    /// Marks idle streams as ready if their logs have new events. Reads memory only.
    fn poll(&mut self) {
        let store = &self.arguments.shared.store;
        for (number, stream) in &mut self.streams {
            let delivered = stream.cursor.as_ref().map(|cursor| cursor.sequence);
            // If the log cannot be read, the time slice reports the error.
            let behind =
                |sequence| events::last_sequence(store, *number).map_or(true, |last| last > sequence);
            if matches!(stream.phase, Phase::Idle) && delivered.is_none_or(behind) {
                stream.phase = Phase::Ready;
                self.ready.push_back(*number);
            }
        }
    }

    fn start_slices(&mut self) {
        while self.running < self.arguments.shared.options.streams.get()
            && !self.stop.is_cancelled()
            && let Some(instance) = self.ready.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&instance) else { continue };
            let slice = TimeSlice {
                runtime: self.arguments.runtime.clone(),
                instance,
                name: stream.name.clone(),
                store: self.arguments.shared.store.clone(),
                deliverer: self.arguments.shared.deliverer(),
                random: self.arguments.shared.random.clone(),
                options: self.arguments.shared.options.clone(),
                cursor: stream.cursor.clone(),
                stop: self.stop.clone(),
            };
            let me = self.me.clone();
            let task = self.tasks.spawn(async move {
                let result = match AssertUnwindSafe(log_reader::run(slice)).catch_unwind().await {
                    Ok(result) => result.map_err(|error| error.to_string()),
                    Err(_) => Err("a delivery panicked".to_owned()),
                };
                let _ = me.cast(Msg::SliceEnded(instance, result));
            });
            stream.phase = Phase::Running(task);
            self.running += 1;
        }
    }

    /// Handles the end of a time slice. An error ends the actor; its next incarnation continues from the store.
    fn on_slice_end(
        &mut self,
        instance: InstanceNumber,
        result: Result<SliceEnd, String>,
    ) -> Result<(), ActorProcessingErr> {
        // The time slice of a deleted instance was aborted, but may have ended before that.
        let Some(stream) = self.streams.get_mut(&instance) else { return Ok(()) };
        self.running -= 1;
        let SliceEnd { cursor, next } = result?;
        stream.cursor = Some(cursor);
        stream.phase = match next {
            NextStep::AwaitEvents => Phase::Idle,
            NextStep::Continue => {
                self.ready.push_back(instance);
                Phase::Ready
            }
            NextStep::RetryAt(due) => {
                self.wait_count += 1;
                let (wait, delay) = (self.wait_count, self.arguments.shared.clock.until(due));
                let timer = self.me.send_after(delay, move || Msg::RetryDue(instance, wait));
                Phase::Waiting { wait, _timer: AbortOnDropHandle::new(timer) }
            }
            NextStep::Disable(failures) => {
                (self.arguments.on_give_up)(instance, failures);
                Phase::Stopped
            }
            NextStep::Superseded => Phase::Stopped,
        };
        // The log may have new events since the time slice read it.
        self.poll();
        Ok(())
    }

    fn on_retry_due(&mut self, instance: InstanceNumber, wait: u64) {
        if let Some(stream) = self.streams.get_mut(&instance)
            && matches!(stream.phase, Phase::Waiting { wait: current, .. } if current == wait)
        {
            stream.phase = Phase::Ready;
            self.ready.push_back(instance);
        }
    }
}
