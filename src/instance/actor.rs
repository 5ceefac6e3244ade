//! One account at work: it takes leases at the pace of its limiter and attempts them, each in a task of its own.
//!
//! The actor never waits for the network. A send's outcome goes straight from its task to the queue or to `retry`,
//! so that it counts even when the actor died meanwhile; the actor only hears that a worker is free again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::inbound;
use crate::queue;
use crate::retry;
use relevo_clock::Clock;
use relevo_domain::{Class, Failure, InstanceConfig, InstanceNumber, Reason, Timestamp};
use relevo_metrics::Metrics;
use relevo_provider::{LinkEvent, LinkedAccount, Provider};

use super::Options;
use super::connection;
use super::directory::{DesiredState, QrCode};
use super::health_check::HealthCheck;
use super::leasing::{self, Capacity, Demand};
use super::limiter::Limiter;
use super::prefetch::Prefetch;
use super::ready_queue::{LeaseGrant, ReadyQueue};

/// What an instance's actor is told.
pub enum Msg {
    /// From its nudge forwarders: there may be work of this class. With the place that it takes in the mailbox.
    Nudged(Class, OwnedSemaphorePermit),
    /// From its own lease request: work, or why there is none; what there was room for, and how long it took.
    Leased(LeaseGrant, Capacity, Duration),
    /// From another: the next message that somebody waits for.
    NextLease(LeaseGrant),
    /// From an attempt's task: a worker is free, after so long on a message of this class. With the failure, when
    /// there was one.
    AttemptEnded(Class, Option<Failure>, Duration),
    /// From its own timer: due messages or the end of a pause.
    Wake,
    /// From its own timer: the limiter has a permit.
    PermitReady,
    /// From its own timer: ask the client whether it lives.
    Probe,
    /// From a probe's task: what the client answered, on which of its connections.
    ProbeResult(u64, Result<(), Failure>),
    /// From the task that hears the client's lasting connection: how the link stands.
    LinkChanged(LinkEvent),
    /// From the same task: nothing more will be heard.
    ConnectionClosed,
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
    QrCode(QrCode),
    /// A phone took it.
    Linked(LinkedAccount),
    /// It must not go on before somebody cares: what the instance is to be from now on.
    Stopped(DesiredState),
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
    pub(super) workers: usize,
    /// Of them, at most so many have bulk messages.
    pub(super) bulk_workers: usize,
    /// Attempts under way.
    pub(super) in_flight: usize,
    /// Of them, those of bulk messages.
    pub(super) bulk_in_flight: usize,
    /// Leased and not begun: what hides the time that leasing takes.
    pub(super) ready_queue: ReadyQueue,
    pub(super) prefetch: Prefetch,
    /// Messages can be sent.
    pub(super) connected: bool,
    /// Somebody must care before anything goes on; the supervisor knows and is about to end this actor.
    pub(super) stopped: bool,
    /// A lease request for what somebody waits for is under way.
    pub(super) leasing_urgent: bool,
    /// Another, for bulk messages, is under way, for so many.
    pub(super) leasing_bulk: Option<usize>,
    /// The queue hands over the next message that somebody waits for.
    pub(super) awaiting_next: bool,
    pub(super) demand: Demand,
    forwarders: Vec<JoinHandle<()>>,
    /// Hears the client's lasting connection, where it has one. Its end ends the connection.
    connection_task: Option<JoinHandle<()>>,
    /// The number as a whole was told to slow down until then.
    pub(super) hold_until: Option<Timestamp>,
    pub(super) wake_timer: Option<Timer>,
    pub(super) permit_timer: Option<Timer>,
    pub(super) health_check: HealthCheck,
    pub(super) draining: Option<RpcReplyPort<()>>,
}

pub(super) type Timer = JoinHandle<Result<(), ractor::MessagingErr<Msg>>>;

impl Actor for InstanceActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let forward = |class| {
            let nudges = arguments.queue.subscribe(arguments.number, class);
            tokio::spawn(leasing::forward_nudges(nudges, class, me.clone()))
        };
        let forwarders = Class::ALL.map(forward).into();
        let (config, options) = (&arguments.config, &arguments.options);
        let kind = config.provider;
        let capabilities = arguments.provider.capabilities();
        let pair = capabilities.limits_pair_rate.then_some((options.pair_interval, options.pair_burst));
        let rate = config.rate_limit.unwrap_or(options.rate_limit_of(kind));
        let limiter = Limiter::new(rate, pair, options.jitter_of(kind));
        let workers = config.workers.unwrap_or(options.workers_of(kind));
        let count = |number: NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
        let hearing = match arguments.provider.linked() {
            Some(device) => Some(connection::spawn_listener(device, &arguments, me.clone())),
            None => {
                me.cast(Msg::Probe)?;
                None
            }
        };
        let pulse = HealthCheck::new(options, capabilities);
        Ok(State {
            me,
            limiter,
            workers: count(workers),
            bulk_workers: count(options.bulk_workers.min(workers)),
            in_flight: 0,
            bulk_in_flight: 0,
            ready_queue: ReadyQueue::default(),
            prefetch: Prefetch::default(),
            connected: false,
            stopped: false,
            leasing_urgent: false,
            leasing_bulk: None,
            awaiting_next: false,
            demand: Demand::ALL,
            forwarders,
            connection_task: hearing,
            hold_until: None,
            wake_timer: None,
            permit_timer: None,
            health_check: pulse,
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
            Msg::Nudged(class, place) => {
                drop(place);
                state.demand.add(class);
                state.request_work();
            }
            Msg::Leased(offer, room, took) => state.on_leased(offer, room, took),
            Msg::NextLease(offer) => state.on_next_lease(offer),
            Msg::AttemptEnded(class, failure, took) => state.on_attempt_ended(class, failure.as_ref(), took),
            Msg::Wake => {
                state.demand = Demand::ALL;
                state.request_work();
            }
            Msg::PermitReady => {
                state.permit_timer = None;
                state.start_ready_attempts();
                state.request_work();
            }
            Msg::Probe => state.start_probe(),
            Msg::ProbeResult(connection, answer) => state.on_probe_result(connection, answer)?,
            Msg::LinkChanged(news) => state.on_link_event(news),
            Msg::ConnectionClosed => state.on_connection_lost()?,
            Msg::Ping(reply) => drop(reply.send(())),
            Msg::Drain(reply) => {
                state.draining = Some(reply);
                state.return_leases();
                state.cancel_await_next();
                state.finish_drain();
            }
        }
        Ok(())
    }
}

impl Drop for State {
    // Also runs when the actor is killed, which skips ractor's own hooks.
    fn drop(&mut self) {
        self.forwarders.iter().for_each(JoinHandle::abort);
        if let Some(hearing) = &self.connection_task {
            hearing.abort();
        }
        self.return_leases();
        self.cancel_await_next();
        [self.wake_timer.take(), self.permit_timer.take()]
            .into_iter()
            .flatten()
            .for_each(|timer| timer.abort());
    }
}

impl State {
    pub(super) fn finish_drain(&mut self) {
        if self.in_flight == 0
            && !self.leasing_urgent
            && self.leasing_bulk.is_none()
            && !self.awaiting_next
            && let Some(reply) = self.draining.take()
        {
            let _ = reply.send(());
            // Nothing begins any more: an actor that drained is about to end.
            self.connected = false;
        }
    }
}
