//! The actor of one connected instance. It leases messages within its rate limit and runs each attempt in a separate
//! task.
//!
//! The actor never waits for the network. An attempt's task reports its outcome directly to the queue or to `retry`, so
//! that the outcome is recorded even if the actor has ended. The actor only receives that a worker is free again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::inbound;
use crate::queue;
use crate::retry;
use relevo_clock::{Clock, Random};
use relevo_domain::{Class, Failure, InstanceConfig, InstanceNumber, Reason, Timestamp};
use relevo_metrics::Metrics;
use relevo_provider::{LinkEvent, LinkedAccount, Provider};

use super::Options;
use super::connection;
use super::directory::QrCode;
use super::health_check::HealthCheck;
use super::leasing::{self, LeaseGrant};
use super::limiter::Limiter;
use super::planner::{Action, Capacity, Now, SendPlanner, Workers};
use super::record::DesiredState;

/// Messages to the actor of an instance.
pub enum Msg {
    /// From the nudge forwarders: there may be messages of this class. The permit limits each forwarder to one nudge in
    /// the mailbox.
    Nudged(Class, OwnedSemaphorePermit),
    /// From the task of a lease request: its result, the requested capacity, and how long the request took.
    Leased(LeaseGrant, Capacity, Duration),
    /// From the task that waits for the next transactional message: its lease.
    NextLease(LeaseGrant),
    /// From an attempt's task: the class of the message, the failure if the attempt failed, and its duration.
    AttemptEnded(Class, Option<Failure>, Duration),
    /// From the wake timer: messages are due, or a hold has ended.
    Wake,
    /// From the permit timer: the limiter has a permit.
    PermitReady,
    /// From the probe timer: probe the client.
    Probe,
    /// From a probe's task: the number of the probed connection, and the answer.
    ProbeResult(u64, Result<(), Failure>),
    /// From the connection task: the state of the link changed.
    LinkChanged(LinkEvent),
    /// From the connection task: the connection task has ended.
    ConnectionClosed,
    /// From the supervisor's watchdog: reply at once.
    Ping(RpcReplyPort<()>),
    /// From the supervisor: begin no more attempts; reply when none is in flight.
    Drain(RpcReplyPort<()>),
}

/// Reports of an actor to its supervisor.
#[derive(Debug)]
pub(super) enum Report {
    /// Messages can be sent. With the account, if the client knows it.
    Connected(Option<LinkedAccount>),
    /// Not connected, with the reason and the time of the next connection attempt, if the client plans one.
    Connecting(Reason, Option<Timestamp>),
    /// Connected, and WhatsApp throttles the number: nothing is sent until this time.
    Held(Failure, Timestamp),
    /// Messages can be sent again after a hold.
    Resumed,
    /// The device is not linked; a phone can scan this code.
    QrCode(QrCode),
    /// A phone linked the device.
    Linked(LinkedAccount),
    /// WhatsApp rejected the instance, or pairing ended. With the new desired state, which lasts until an operator acts.
    Stopped(DesiredState),
}

/// Arguments of the actor of one instance.
pub(super) struct Arguments {
    pub number: InstanceNumber,
    pub config: InstanceConfig,
    pub options: Options,
    pub clock: Clock,
    pub random: Random,
    /// Cancelled when the supervisor ends. The tasks of this actor outlive it, but not the supervisor.
    pub supervisor_ended: CancellationToken,
    /// The client, not connected yet.
    pub provider: Arc<dyn Provider>,
    pub queue: queue::Handle,
    pub retry: retry::Handle,
    pub inbound: inbound::Handle,
    pub metrics: Metrics,
    /// Sends a report to the supervisor.
    pub report: Box<dyn Fn(Report) + Send + Sync>,
}

/// The actor of one instance.
pub(super) struct InstanceActor;

pub(super) struct State {
    pub(super) me: ActorRef<Msg>,
    pub(super) arguments: Arguments,
    /// Decides what to lease and what to begin; this actor executes it.
    pub(super) planner: SendPlanner,
    /// The start of the actor, for the planner's monotonic time.
    started: Instant,
    forwarders: Vec<JoinHandle<()>>,
    /// Reads the events of the client's connection, if the provider keeps one. Aborting it closes the connection.
    connection_task: Option<JoinHandle<()>>,
    wake_timer: Option<Timer>,
    permit_timer: Option<Timer>,
    pub(super) health_check: HealthCheck,
    drain_reply: Option<RpcReplyPort<()>>,
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
        let kind = config.provider.kind();
        let capabilities = arguments.provider.capabilities();
        let pair = capabilities.limits_pair_rate.then_some((options.pair_interval, options.pair_burst));
        let rate = config.rate_limit.unwrap_or(options.rate_limit_of(kind));
        let limiter = Limiter::new(rate, pair, options.jitter_of(kind), arguments.random.clone());
        let workers = config.workers.unwrap_or(options.workers_of(kind));
        let count = |number: NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
        let connection_task = match arguments.provider.linked() {
            Some(device) => Some(connection::spawn_listener(device, &arguments, me.clone())),
            None => {
                me.cast(Msg::Probe)?;
                None
            }
        };
        let health_check = HealthCheck::new(options, capabilities);
        let workers = Workers { total: count(workers), bulk: count(options.bulk_workers.min(workers)) };
        Ok(State {
            me,
            planner: SendPlanner::new(workers, limiter, capabilities.keeps_connection),
            started: Instant::now(),
            forwarders,
            connection_task,
            wake_timer: None,
            permit_timer: None,
            health_check,
            drain_reply: None,
            arguments,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.now();
        match message {
            Msg::Nudged(class, permit) => {
                drop(permit);
                state.planner.on_nudge(class, now);
            }
            Msg::Leased(grant, request, took) => {
                let batch = state.batch_of(grant);
                state.planner.on_leased(batch, request, took, now);
            }
            Msg::NextLease(grant) => {
                let batch = state.batch_of(grant);
                state.planner.on_next_lease(batch, now);
            }
            Msg::AttemptEnded(class, failure, took) => {
                state.planner.on_attempt_ended(class, failure, took, now);
            }
            Msg::Wake => state.planner.on_wake(now),
            Msg::PermitReady => {
                state.permit_timer = None;
                state.planner.on_permit(now);
            }
            Msg::Probe => state.start_probe(),
            Msg::ProbeResult(connection, answer) => state.on_probe_result(connection, answer)?,
            Msg::LinkChanged(event) => state.on_link_event(event),
            Msg::ConnectionClosed => state.on_connection_lost()?,
            Msg::Ping(reply) => drop(reply.send(())),
            Msg::Drain(reply) => {
                state.drain_reply = Some(reply);
                state.planner.on_drain(now);
            }
        }
        state.execute_actions();
        Ok(())
    }
}

impl Drop for State {
    // Runs also when the actor is killed; ractor's `post_stop` does not.
    fn drop(&mut self) {
        self.forwarders.iter().for_each(JoinHandle::abort);
        if let Some(task) = &self.connection_task {
            task.abort();
        }
        self.planner.on_end(self.now());
        self.execute_actions();
        [self.wake_timer.take(), self.permit_timer.take()]
            .into_iter()
            .flatten()
            .for_each(|timer| timer.abort());
    }
}

impl State {
    /// The time for the planner.
    pub(super) fn now(&self) -> Now {
        Now { wall: self.arguments.clock.now(), elapsed: self.started.elapsed() }
    }

    /// Executes the planner's actions in their order.
    fn execute_actions(&mut self) {
        while let Some(action) = self.planner.next_action() {
            match action {
                Action::Lease(request) => self.request_leases(request),
                Action::AwaitNext => self.await_next_lease(),
                Action::CancelAwaitNext => self.cancel_next_lease(),
                Action::Begin(lease) => self.start_attempt(lease),
                Action::Return(lease, until) => self.return_lease(lease, until),
                Action::WakeAfter(wait) => {
                    let timer = self.me.send_after(wait, || Msg::Wake);
                    if let Some(earlier) = self.wake_timer.replace(timer) {
                        earlier.abort();
                    }
                }
                Action::PermitAfter(wait) => {
                    self.permit_timer = Some(self.me.send_after(wait, || Msg::PermitReady));
                }
                Action::Verify(failure, delay) => self.verify_connection(&failure, delay),
                Action::ReportHeld(failure, until) => {
                    (self.arguments.report)(Report::Held(failure, until));
                }
                Action::ReportResumed => (self.arguments.report)(Report::Resumed),
                Action::ReportRejected(failure) => self.report_rejected(&failure),
                Action::DrainDone => {
                    if let Some(reply) = self.drain_reply.take() {
                        let _ = reply.send(());
                    }
                }
            }
        }
    }
}
