//! One account at work: it takes leases at the pace of its limiter and attempts them, each in a task of its own.
//!
//! The actor never waits for the network. A send's outcome goes straight from its task to the queue or to `retry`,
//! so that it counts even when the actor died meanwhile; the actor only hears that a worker is free again.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::clock::Clock;
use crate::domain::{
    Class, Failure, FailureKind, InstanceConfig, InstanceNumber, InstanceState, ProviderKind, Reason,
    Recipient, Scope, Timestamp,
};
use crate::metrics::Metrics;
use crate::provider::{self, Provider};
use crate::queue::{self, Lease, Leased};
use crate::retry;

use super::Options;
use super::ahead::Ahead;
use super::limiter::Limiter;

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
    /// From a probe's task.
    Probed(Result<(), Failure>),
    /// From the supervisor's watchdog: are you there?
    Ping(RpcReplyPort<()>),
    /// From the supervisor: begin nothing new; answer when nothing is under way.
    Drain(RpcReplyPort<()>),
}

/// What an actor reports to its supervisor, beside dying.
#[derive(Debug)]
pub(super) enum Report {
    /// Connected, or not (yet), and why.
    State(InstanceState, Reason),
    /// The account itself refuses: it must not go on before somebody cares.
    Pause(Reason),
}

pub(super) struct Arguments {
    pub number: InstanceNumber,
    pub config: InstanceConfig,
    pub options: Options,
    pub clock: Clock,
    pub shared: provider::Shared,
    pub queue: queue::Handle,
    pub retry: retry::Handle,
    pub metrics: Metrics,
    /// How reports reach the supervisor.
    pub report: Box<dyn Fn(Report) + Send + Sync>,
}

pub(super) struct InstanceActor;

/// Leases on their way to the actor. An actor that ends drops its mailbox: what was in it has not begun and may go again
/// at once.
pub struct Offer {
    leased: Option<Result<Leased, queue::Error>>,
    queue: queue::Handle,
    clock: Clock,
}

impl Offer {
    fn take(mut self) -> Result<Leased, queue::Error> {
        self.leased.take().unwrap_or_else(|| Ok(Leased::default()))
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(Ok(unwanted)) = self.leased.take() {
            for lease in unwanted.leases {
                let _ = self.queue.postpone(lease, self.clock.now());
            }
        }
    }
}

/// Leases whose attempts have not begun. Whoever waits for a transactional message waits for no bulk message that has
/// not begun.
#[derive(Default)]
struct Ready {
    transactional: VecDeque<Lease>,
    bulk: VecDeque<Lease>,
}

impl Ready {
    fn len(&self) -> usize {
        self.transactional.len() + self.bulk.len()
    }

    fn push(&mut self, lease: Lease) {
        match lease.id.class() {
            Class::Transactional => self.transactional.push_back(lease),
            Class::Bulk => self.bulk.push_back(lease),
        }
    }

    /// The next to begin; a bulk message only when one may.
    fn next(&mut self, bulk: bool) -> Option<Lease> {
        self.transactional.pop_front().or_else(|| if bulk { self.bulk.pop_front() } else { None })
    }
}

pub(super) struct State {
    me: ActorRef<Msg>,
    arguments: Arguments,
    provider: Arc<dyn Provider>,
    limiter: Limiter,
    workers: usize,
    /// Of them, at most so many have bulk messages.
    bulk_workers: usize,
    /// Attempts under way.
    busy: usize,
    /// Of them, those of bulk messages.
    bulk: usize,
    /// Leased and not begun: what hides the time that leasing takes.
    ready: Ready,
    ahead: Ahead,
    connected: bool,
    /// A lease request is under way.
    leasing: bool,
    /// Asking for a lease may find something.
    hungry: bool,
    /// Set while a nudge waits in the mailbox, so that a thousand of them take one place.
    nudged: Arc<AtomicBool>,
    forwarder: JoinHandle<()>,
    /// The number as a whole was told to slow down until then.
    hold_until: Option<Timestamp>,
    wake: Option<JoinHandle<Result<(), ractor::MessagingErr<Msg>>>>,
    probe_misses: u32,
    probe_pause: Duration,
    draining: Option<RpcReplyPort<()>>,
}

/// So many probes in a row without an answer, and the client counts as dead.
const MISSES: u32 = 3;

/// The pause before the second attempt to connect; doubled up to the probe interval.
const FIRST_CONNECT_PAUSE: Duration = Duration::from_millis(500);

impl Actor for InstanceActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let provider = provider::open(arguments.number, &arguments.config, &arguments.shared)?;
        let nudged = Arc::new(AtomicBool::new(false));
        let nudges = arguments.queue.subscribe(arguments.number);
        let forwarder = tokio::spawn(forward_nudges(nudges, nudged.clone(), me.clone()));
        let (config, options) = (&arguments.config, &arguments.options);
        let pair = (config.provider == ProviderKind::CloudApi)
            .then_some((options.pair_interval, options.pair_burst));
        let limiter = Limiter::new(config.rate_limit.unwrap_or(options.rate_limit), pair);
        let workers = config.workers.unwrap_or(options.workers);
        let count = |number: NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
        me.cast(Msg::Probe)?;
        Ok(State {
            me,
            provider,
            limiter,
            workers: count(workers),
            bulk_workers: count(options.bulk_workers.min(workers)),
            busy: 0,
            bulk: 0,
            ready: Ready::default(),
            ahead: Ahead::default(),
            connected: false,
            leasing: false,
            hungry: true,
            nudged,
            forwarder,
            hold_until: None,
            wake: None,
            probe_misses: 0,
            probe_pause: FIRST_CONNECT_PAUSE,
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
            Msg::Probed(answer) => state.probed(answer)?,
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
    fn seek_work(&mut self) {
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
        let bulk_room = (self.bulk_workers + extra).saturating_sub(self.bulk + self.ready.bulk.len());
        tokio::spawn(async move {
            let asked = Instant::now();
            let leased = Some(queue.lease(number, permits, bulk_room).await);
            let _ = me.cast(Msg::Leased(Offer { leased, queue, clock }, asked.elapsed()));
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
    fn begin(&mut self) {
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
    fn give_back(&mut self) {
        let now = self.arguments.clock.now();
        while let Some(lease) = self.ready.next(true) {
            self.postpone(lease, now);
        }
    }

    fn postpone(&mut self, lease: Lease, until: Timestamp) {
        // Bulk messages that were not asked for, because there was no room, can be now.
        self.hungry |= lease.id.class() == Class::Bulk;
        let _ = self.arguments.queue.postpone(lease, until);
    }

    fn attempt(&mut self, lease: Lease) {
        if paced(&lease.message.to)
            && let Err(wait) = self.limiter.pace(lease.message.to.lane())
        {
            self.limiter.refund();
            let until = self.arguments.clock.now() + wait;
            return self.postpone(lease, until);
        }
        let class = lease.id.class();
        self.busy += 1;
        self.bulk += usize::from(class == Class::Bulk);
        let span = tracing::info_span!("attempt", instance = %self.arguments.config.id, message_id = %lease.id, attempt = lease.attempt);
        let work = attempt(
            self.provider.clone(),
            lease,
            self.arguments.options.send_timeout,
            self.arguments.queue.clone(),
            self.arguments.retry.clone(),
            self.arguments.metrics.clone(),
        );
        let me = self.me.clone();
        tokio::spawn(
            async move {
                let began = Instant::now();
                let failure = work.await;
                let _ = me.cast(Msg::Ended(class, failure, began.elapsed()));
            }
            .instrument(span),
        );
    }

    fn ended(&mut self, class: Class, failure: Option<&Failure>, took: Duration) {
        self.busy = self.busy.saturating_sub(1);
        if class == Class::Bulk {
            self.bulk = self.bulk.saturating_sub(1);
            self.hungry = true;
        }
        self.ahead.sent(took);
        if let Some(failure) = failure {
            match failure.kind {
                FailureKind::LoggedOut | FailureKind::AccountBlocked => self.pause(failure),
                FailureKind::Throttled { retry_after } if failure.scope == Scope::Number => {
                    self.hold_until = Some(self.arguments.clock.now() + retry_after);
                }
                _ => {}
            }
        }
        self.begin();
        self.finish_drain();
        self.seek_work();
    }

    /// The account itself refuses. Nothing more is tried; the supervisor writes it down and ends this actor.
    fn pause(&mut self, failure: &Failure) {
        self.connected = false;
        self.give_back();
        let (code, advice) = match failure.kind {
            FailureKind::LoggedOut => {
                ("auth_rejected", "give it new credentials, or resume it once they work again")
            }
            _ => ("account_blocked", "settle it with Meta, then resume the instance"),
        };
        (self.arguments.report)(Report::Pause(Reason::new(code, format!("{failure}; {advice}"))));
    }

    fn finish_drain(&mut self) {
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

    fn probe(&self) {
        let (provider, me, timeout) =
            (self.provider.clone(), self.me.clone(), self.arguments.options.probe_timeout);
        tokio::spawn(async move {
            let answer = tokio::time::timeout(timeout, provider.probe()).await;
            let silent = |_| Err(Failure::transient(format!("no answer within {timeout:?}")));
            let _ = me.cast(Msg::Probed(answer.unwrap_or_else(silent)));
        });
    }

    fn probed(&mut self, answer: Result<(), Failure>) -> Result<(), ActorProcessingErr> {
        let mut next = self.arguments.options.probe_interval;
        match answer {
            Ok(()) => {
                self.probe_misses = 0;
                self.probe_pause = FIRST_CONNECT_PAUSE;
                if !self.connected && self.draining.is_none() {
                    self.connected = true;
                    (self.arguments.report)(Report::State(
                        InstanceState::Connected,
                        Reason::new("ok", "connected"),
                    ));
                    self.hungry = true;
                    self.seek_work();
                }
            }
            Err(failure) => match failure.kind {
                FailureKind::LoggedOut | FailureKind::AccountBlocked | FailureKind::Permanent => {
                    self.pause(&failure);
                    return Ok(());
                }
                // An answer that asks for patience is an answer.
                FailureKind::Throttled { .. } | FailureKind::Deferred { .. } if self.connected => {}
                _ if self.connected => {
                    self.probe_misses += 1;
                    if self.probe_misses >= MISSES {
                        return Err(format!("the client answered none of {MISSES} probes: {failure}").into());
                    }
                }
                _ => {
                    let reason = Reason::new("unreachable", failure.to_string());
                    (self.arguments.report)(Report::State(InstanceState::Connecting, reason));
                    next = self.probe_pause.min(next);
                    self.probe_pause = self.probe_pause.saturating_mul(2);
                }
            },
        }
        self.me.send_after(next, || Msg::Probe);
        Ok(())
    }
}

/// Meta paces messages to one person; groups and channels have their own rules.
fn paced(recipient: &Recipient) -> bool {
    matches!(recipient, Recipient::Phone(_) | Recipient::User(_))
}

/// One attempt from lease to report. Never fails and never panics; tells the failure, when there was one.
async fn attempt(
    provider: Arc<dyn Provider>,
    lease: Lease,
    timeout: Duration,
    queue: queue::Handle,
    retry: retry::Handle,
    metrics: Metrics,
) -> Option<Failure> {
    let began = Instant::now();
    let sending = AssertUnwindSafe(provider.send(lease.id, &lease.message)).catch_unwind();
    let outcome = match tokio::time::timeout(timeout, sending).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Failure::ambiguous("the client crashed during the attempt")),
        Err(_) => Err(Failure::ambiguous(format!("no answer within {timeout:?}"))),
    };
    let (word, code) = match &outcome {
        Ok(_) => ("sent", None),
        Err(failure) => (failure.kind.as_str(), failure.code),
    };
    metrics.attempted(word, code, began.elapsed());
    // A queue or a judge that is being restarted leaves the lease to expire; it is judged then.
    match outcome {
        Ok(provider_id) => {
            tracing::info!(%provider_id, "message sent");
            let _ = queue.sent(lease, provider_id);
            None
        }
        Err(failure) => {
            let _ = retry.failed(lease, failure.clone());
            Some(failure)
        }
    }
}
