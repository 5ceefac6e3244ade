//! One account at work: it takes leases at the pace of its limiter and attempts them, each in a task of its own.
//!
//! The actor never waits for the network. A send's outcome goes straight from its task to the queue or to `retry`,
//! so that it counts even when the actor died meanwhile; the actor only hears that a worker is free again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::domain::{Class, Failure, InstanceConfig, InstanceNumber, ProviderKind, Reason, Timestamp};
use crate::inbound;
use crate::metrics::Metrics;
use crate::provider::{LinkNews, LinkedAccount, Provider};
use crate::queue::{self, Lease, Leased};
use crate::retry;

use super::Options;
use super::ahead::Ahead;
use super::directory::{Code, Wanted};
use super::hearing;
use super::limiter::Limiter;
use super::pulse::Pulse;
use super::ready::{Offer, Ready};

/// What an instance's actor is told.
pub enum Msg {
    /// From its nudge forwarder: there may be work.
    Nudged,
    /// From its own lease request: work, or why there is none, and how long that took.
    Leased(Offer, Duration),
    /// From an attempt's task: a worker is free, after so long on a message of this class. With the failure, when
    /// there was one.
    Ended(Class, Option<Failure>, Duration),
    /// From its own timer: permits, due messages or a pause may be ready.
    Wake,
    /// From its own timer: ask the client whether it lives.
    Probe,
    /// From a probe's task: what the client answered, on which of its connections.
    Probed(u64, Result<(), Failure>),
    /// From the task that hears the client's lasting connection: how the link stands.
    Heard(LinkNews),
    /// From the same task: nothing more will be heard.
    Deaf,
    /// From the supervisor's watchdog: are you there?
    Ping(RpcReplyPort<()>),
    /// From the supervisor: begin nothing new; answer when nothing is under way.
    Drain(RpcReplyPort<()>),
}

/// What an actor reports to its supervisor, beside dying.
#[derive(Debug)]
pub(super) enum Report {
    /// With the account, where the client knows it.
    Connected(Option<LinkedAccount>),
    /// Not (yet), and why; and when the client tries again by itself.
    Connecting(Reason, Option<Timestamp>),
    /// It is nobody's device yet: this is what a phone scans.
    Code(Code),
    /// A phone took it.
    Linked(LinkedAccount),
    /// It must not go on before somebody cares: what the instance is to be from now on.
    Over(Wanted),
}

pub(super) struct Arguments {
    pub number: InstanceNumber,
    pub config: InstanceConfig,
    pub options: Options,
    pub clock: Clock,
    /// Not yet connected.
    pub provider: Arc<dyn Provider>,
    pub queue: queue::Handle,
    pub retry: retry::Handle,
    pub inbound: inbound::Handle,
    pub metrics: Metrics,
    /// How reports reach the supervisor.
    pub report: Box<dyn Fn(Report) + Send + Sync>,
}

pub(super) struct InstanceActor;

pub(super) struct State {
    pub(super) me: ActorRef<Msg>,
    pub(super) arguments: Arguments,
    pub(super) limiter: Limiter,
    workers: usize,
    /// Of them, at most so many have bulk messages.
    bulk_workers: usize,
    /// Attempts under way.
    pub(super) busy: usize,
    /// Of them, those of bulk messages.
    pub(super) bulk: usize,
    /// Leased and not begun: what hides the time that leasing takes.
    ready: Ready,
    pub(super) ahead: Ahead,
    /// Messages can be sent.
    pub(super) connected: bool,
    /// Somebody must care before anything goes on; the supervisor knows and is about to end this actor.
    pub(super) over: bool,
    /// A lease request is under way.
    leasing: bool,
    /// Asking for a lease may find something.
    pub(super) hungry: bool,
    /// Set while a nudge waits in the mailbox, so that a thousand of them take one place.
    nudged: Arc<AtomicBool>,
    forwarder: JoinHandle<()>,
    /// Hears the client's lasting connection, where it has one. Its end ends the connection.
    hearing: Option<JoinHandle<()>>,
    /// The number as a whole was told to slow down until then.
    pub(super) hold_until: Option<Timestamp>,
    wake: Option<Timer>,
    pub(super) pulse: Pulse,
    pub(super) draining: Option<RpcReplyPort<()>>,
}

pub(super) type Timer = JoinHandle<Result<(), ractor::MessagingErr<Msg>>>;

impl Actor for InstanceActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let nudged = Arc::new(AtomicBool::new(false));
        let nudges = arguments.queue.subscribe(arguments.number);
        let forwarder = tokio::spawn(forward_nudges(nudges, nudged.clone(), me.clone()));
        let (config, options) = (&arguments.config, &arguments.options);
        let kind = config.provider;
        let pair = (kind == ProviderKind::CloudApi).then_some((options.pair_interval, options.pair_burst));
        let rate = config.rate_limit.unwrap_or(options.rate_limit_of(kind));
        let limiter = Limiter::new(rate, pair, options.jitter_of(kind));
        let workers = config.workers.unwrap_or(options.workers_of(kind));
        let count = |number: NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
        let hearing = if kind.keeps_connection() {
            Some(hearing::begin(&arguments, me.clone()))
        } else {
            me.cast(Msg::Probe)?;
            None
        };
        let pulse = Pulse::new(options, kind);
        Ok(State {
            me,
            limiter,
            workers: count(workers),
            bulk_workers: count(options.bulk_workers.min(workers)),
            busy: 0,
            bulk: 0,
            ready: Ready::default(),
            ahead: Ahead::default(),
            connected: false,
            over: false,
            leasing: false,
            hungry: true,
            nudged,
            forwarder,
            hearing,
            hold_until: None,
            wake: None,
            pulse,
            draining: None,
            arguments,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Nudged => {
                state.nudged.store(false, Ordering::Release);
                state.hungry = true;
                state.seek_work();
            }
            Msg::Leased(offer, took) => state.leased(offer.take(), took),
            Msg::Ended(class, failure, took) => state.ended(class, failure.as_ref(), took),
            Msg::Wake => {
                state.hungry = true;
                state.seek_work();
            }
            Msg::Probe => state.probe(),
            Msg::Probed(connection, answer) => state.probed(connection, answer)?,
            Msg::Heard(news) => state.heard(news),
            Msg::Deaf => state.deaf()?,
            Msg::Ping(reply) => drop(reply.send(())),
            Msg::Drain(reply) => {
                state.draining = Some(reply);
                state.give_back();
                state.finish_drain();
            }
        }
        Ok(())
    }
}

impl Drop for State {
    // Also runs when the actor is killed, which skips ractor's own hooks.
    fn drop(&mut self) {
        self.forwarder.abort();
        if let Some(hearing) = &self.hearing {
            hearing.abort();
        }
        self.give_back();
        if let Some(wake) = self.wake.take() {
            wake.abort();
        }
    }
}

async fn forward_nudges(mut nudges: watch::Receiver<()>, waiting: Arc<AtomicBool>, actor: ActorRef<Msg>) {
    while nudges.changed().await.is_ok() {
        if !waiting.swap(true, Ordering::AcqRel) && actor.cast(Msg::Nudged).is_err() {
            return;
        }
    }
}

impl State {
    /// Asks for as many messages as there are free workers and permits, if there is anything to ask for.
    pub(super) fn seek_work(&mut self) {
        if !self.connected || self.leasing || !self.hungry || self.draining.is_some() {
            return;
        }
        let extra = self.ahead.extra(self.workers);
        let wanted = self.workers + extra;
        let free = wanted.saturating_sub(self.busy + self.ready.len());
        if free == 0 {
            return;
        }
        if let Some(until) = self.hold_until {
            let wait = self.arguments.clock.until(until);
            if !wait.is_zero() {
                return self.wake_in(wait);
            }
            self.hold_until = None;
        }
        let mut permits = self.limiter.take(free);
        if permits == 0 {
            let wait = self.limiter.next_in();
            if !wait.is_zero() {
                return self.wake_in(wait);
            }
            permits = 1;
        }
        self.leasing = true;
        self.hungry = false;
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let clock = self.arguments.clock;
        let bulk_room = (self.bulk_workers + extra).saturating_sub(self.bulk + self.ready.bulk());
        tokio::spawn(async move {
            let asked = Instant::now();
            let leased = queue.lease(number, permits, bulk_room).await;
            let _ = me.cast(Msg::Leased(Offer::new(leased, queue, clock), asked.elapsed()));
        });
    }

    fn leased(&mut self, leased: Result<Leased, queue::Error>, took: Duration) {
        self.leasing = false;
        self.ahead.leased(took);
        match leased {
            Ok(leased) => {
                // What was found suggests more; finding nothing means waiting for a nudge or for what is due.
                self.hungry |= !leased.leases.is_empty();
                self.limiter.spend(leased.leases.len());
                leased.leases.into_iter().for_each(|lease| self.ready.push(lease));
                if let Some(due) = leased.next_due {
                    self.wake_in(self.arguments.clock.until(due));
                }
            }
            Err(error) => {
                tracing::warn!(instance = %self.arguments.config.id, %error, "no work could be leased");
                self.wake_in(Duration::from_secs(1));
            }
        }
        self.begin();
        self.finish_drain();
        self.seek_work();
    }

    /// Gives free workers what is ready.
    pub(super) fn begin(&mut self) {
        if !self.connected || self.draining.is_some() || self.hold_until.is_some() {
            return self.give_back();
        }
        while self.busy < self.workers
            && let Some(lease) = self.ready.next(self.bulk < self.bulk_workers)
        {
            self.attempt(lease);
        }
    }

    /// Returns what is ready and will not begin; it goes first when work is sought again.
    pub(super) fn give_back(&mut self) {
        let now = self.arguments.clock.now();
        while let Some(lease) = self.ready.next(true) {
            self.postpone(lease, now);
        }
    }

    pub(super) fn postpone(&mut self, lease: Lease, until: Timestamp) {
        // Bulk messages that were not asked for, because there was no room, can be now.
        self.hungry |= lease.id.class() == Class::Bulk;
        let _ = self.arguments.queue.postpone(lease, until);
    }

    pub(super) fn finish_drain(&mut self) {
        if self.busy == 0
            && !self.leasing
            && let Some(reply) = self.draining.take()
        {
            let _ = reply.send(());
            // Nothing begins any more: an actor that drained is about to end.
            self.connected = false;
        }
    }

    /// One timer serves all that wait; an earlier one wins.
    fn wake_in(&mut self, wait: Duration) {
        if let Some(earlier) = self.wake.take() {
            earlier.abort();
        }
        self.wake = Some(self.me.send_after(wait, || Msg::Wake));
    }
}
