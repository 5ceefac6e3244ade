//! One endpoint at work: which of its streams have something to tell, which wait, which have their turn.
//!
//! The actor itself never touches the network or the disk: it starts turns, each in a task of its own, and hears
//! how they ended. The tasks end with the actor, so that no two incarnations deliver at once.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::events;
use relevo_domain::{InstanceId, InstanceNumber};

use super::endpoint::EndpointRuntime;
use super::log_reader::{self, NextStep, SliceEnd, TimeSlice};
use super::retry::Failures;
use super::storage::Cursor;
use super::supervisor::{EndpointContext, InstanceIds};

/// What an endpoint's actor is told.
pub(super) enum Msg {
    /// From its forwarder: logs grew, or instances came or went.
    Poll,
    /// From a turn's task; the words of what went wrong when it could not be finished.
    SliceEnded(InstanceNumber, Result<SliceEnd, String>),
    /// From its own timer, with the number of the wait: another attempt is due.
    RetryDue(InstanceNumber, u64),
    /// From the supervisor: begin no attempt; answer when none is under way.
    Drain(RpcReplyPort<()>),
}

pub(super) struct EndpointActor;

pub(super) struct Arguments {
    pub runtime: Arc<EndpointRuntime>,
    pub shared: EndpointContext,
    /// Told when the endpoint must be disabled, with the instance whose event it would not take.
    pub on_give_up: Box<dyn Fn(InstanceNumber, Failures) + Send + Sync>,
}

pub(super) struct State {
    me: ActorRef<Msg>,
    arguments: Arguments,
    streams: HashMap<InstanceNumber, Stream>,
    /// Streams that have something to tell, in the order in which they get their turn.
    ready: VecDeque<InstanceNumber>,
    /// Turns under way.
    running: usize,
    /// Set while a look waits in the mailbox, so that a thousand nudges take one place.
    poll_pending: Arc<AtomicBool>,
    wait_count: u64,
    /// Turns and the forwarder. Aborted when the actor ends.
    tasks: JoinSet<()>,
    stop: CancellationToken,
    draining: Option<RpcReplyPort<()>>,
}

struct Stream {
    name: InstanceId,
    /// `None` before its first turn.
    cursor: Option<Cursor>,
    phase: Phase,
}

enum Phase {
    /// Everything in the log was told.
    Idle,
    /// In line for its turn.
    Ready,
    Running(AbortHandle),
    /// Until the wait of that number is over.
    Waiting(u64),
    /// Until the actor is replaced.
    Stopped,
}

impl Actor for EndpointActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let nudged = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let scope = arguments.runtime.endpoint.scope;
        let tails = events::watch(&arguments.shared.store, scope.instance());
        tasks.spawn(forward_changes(tails, arguments.shared.instances.clone(), nudged.clone(), me.clone()));
        Ok(State {
            me,
            arguments,
            streams: HashMap::new(),
            ready: VecDeque::new(),
            running: 0,
            poll_pending: nudged,
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
            Msg::SliceEnded(instance, ended) => state.on_slice_end(instance, ended)?,
            Msg::RetryDue(instance, wait) => state.on_retry_due(instance, wait),
            Msg::Drain(reply) => {
                state.stop.cancel();
                state.draining = Some(reply);
            }
        }
        // Finished tasks would be kept for somebody who asks about them; nobody does.
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

/// Turns nudges into messages, one at a time.
async fn forward_changes(
    mut tails: watch::Receiver<()>,
    mut instances: watch::Receiver<InstanceIds>,
    nudged: Arc<AtomicBool>,
    actor: ActorRef<Msg>,
) {
    loop {
        if !nudged.swap(true, Ordering::AcqRel) && actor.cast(Msg::Poll).is_err() {
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
    /// Streams for instances that are new, none for those that are gone.
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
        for (number, gone) in before {
            if let Phase::Running(turn) = gone.phase {
                turn.abort();
                self.running -= 1;
            }
            self.arguments.runtime.health.clear_failures(number);
        }
        self.ready.retain(|number| self.streams.contains_key(number));
    }

    /// Compares idle streams with the tails of their logs, which are in memory.
    fn poll(&mut self) {
        let store = &self.arguments.shared.store;
        for (number, stream) in &mut self.streams {
            let told = stream.cursor.as_ref().map(|cursor| cursor.sequence);
            // A log that cannot be read is the turn's to report.
            let behind = |told| events::last_sequence(store, *number).map_or(true, |last| last > told);
            if matches!(stream.phase, Phase::Idle) && told.is_none_or(behind) {
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
            let turn = TimeSlice {
                runtime: self.arguments.runtime.clone(),
                instance,
                name: stream.name.clone(),
                store: self.arguments.shared.store.clone(),
                deliverer: self.arguments.shared.deliverer(),
                options: self.arguments.shared.options.clone(),
                cursor: stream.cursor.clone(),
                stop: self.stop.clone(),
            };
            let me = self.me.clone();
            let task = self.tasks.spawn(async move {
                let ended = AssertUnwindSafe(log_reader::run(turn)).catch_unwind().await;
                let ended = ended.map_err(|_| "a delivery panicked".to_owned());
                let _ = me.cast(Msg::SliceEnded(
                    instance,
                    ended.and_then(|ended| ended.map_err(|error| error.to_string())),
                ));
            });
            stream.phase = Phase::Running(task);
            self.running += 1;
        }
    }

    /// A turn that could not be finished ends the actor: its next incarnation begins from what is written down.
    fn on_slice_end(
        &mut self,
        instance: InstanceNumber,
        ended: Result<SliceEnd, String>,
    ) -> Result<(), ActorProcessingErr> {
        // The turn of an instance that is gone was aborted; it may have ended all the same.
        let Some(stream) = self.streams.get_mut(&instance) else { return Ok(()) };
        self.running -= 1;
        let SliceEnd { cursor, next } = ended?;
        stream.cursor = Some(cursor);
        stream.phase = match next {
            NextStep::AwaitEvents => Phase::Idle,
            NextStep::Continue => {
                self.ready.push_back(instance);
                Phase::Ready
            }
            NextStep::RetryAt(due) => {
                self.wait_count += 1;
                let (wait, pause) = (self.wait_count, self.arguments.shared.clock.until(due));
                self.me.send_after(pause, move || Msg::RetryDue(instance, wait));
                Phase::Waiting(wait)
            }
            NextStep::Disable(trouble) => {
                (self.arguments.on_give_up)(instance, trouble);
                Phase::Stopped
            }
            NextStep::Superseded => Phase::Stopped,
        };
        // The log may have grown since the turn read it.
        self.poll();
        Ok(())
    }

    fn on_retry_due(&mut self, instance: InstanceNumber, wait: u64) {
        if let Some(stream) = self.streams.get_mut(&instance)
            && matches!(stream.phase, Phase::Waiting(current) if current == wait)
        {
            stream.phase = Phase::Ready;
            self.ready.push_back(instance);
        }
    }
}
