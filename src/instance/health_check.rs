//! The health check: probes the client at an interval, and replaces it when it misses several probes in a row.
//!
//! A client without a connection (Cloud API) is connected when it answers a probe. A client that keeps a connection
//! reports by itself when it is connected; the probe verifies that the connection still works.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::ActorProcessingErr;

use relevo_domain::{Backoff, Capabilities, Failure, FailureKind, Reason, ReasonCode};
use relevo_provider::LinkedAccount;

use super::Options;
use super::actor::{Msg, Report, State, Timer};
use super::planner::Link;

/// The client is connected and does not answer: it must be replaced.
#[derive(Debug, thiserror::Error)]
#[error("the client missed {misses} probes in a row: {last}")]
pub(super) struct Unresponsive {
    misses: u32,
    last: Failure,
}

/// Delay before the second attempt to connect. It is doubled up to the probe interval.
const INITIAL_CONNECT_DELAY: Duration = Duration::from_millis(500);

/// Delay before the next probe after a missed one, for a client that keeps a connection. It is short because messages
/// wait for that connection.
const REPROBE_DELAY: Duration = Duration::from_secs(2);

/// Settings and progress of the health check of one client.
pub(super) struct HealthCheck {
    interval: Duration,
    timeout: Duration,
    /// Delay before the next probe after a missed one.
    reprobe_delay: Duration,
    /// Number of probes missed in a row after which the client is replaced.
    max_missed_probes: u32,
    missed_probes: u32,
    connect_backoff: Backoff,
    /// Probes that failed in a row before the account was connected.
    connect_failures: u32,
    /// Counts connections, so that the answer to a probe of an earlier connection is ignored.
    connection: u64,
    next_probe: Option<Timer>,
}

impl HealthCheck {
    /// A connection that stopped answering is detected within `interval + timeout + REPROBE_DELAY + timeout`: 38 s with
    /// the defaults.
    pub fn new(options: &Options, capabilities: Capabilities) -> Self {
        let (linked, keeps_connection) = (&options.linked, capabilities.keeps_connection);
        let (interval, timeout) = match keeps_connection {
            true => (linked.probe_interval, linked.probe_timeout),
            false => (options.probe_interval, options.probe_timeout),
        };
        let (reprobe_delay, max_missed_probes) =
            if keeps_connection { (REPROBE_DELAY.min(interval), 2) } else { (interval, 3) };
        Self {
            interval,
            timeout,
            reprobe_delay,
            max_missed_probes,
            missed_probes: 0,
            connect_backoff: Backoff::new(INITIAL_CONNECT_DELAY, 2, interval),
            connect_failures: 0,
            connection: 0,
            next_probe: None,
        }
    }
}

impl Drop for HealthCheck {
    fn drop(&mut self) {
        if let Some(next) = self.next_probe.take() {
            next.abort();
        }
    }
}

impl State {
    /// The client is connected: reports it and begins to send.
    pub fn on_connected(&mut self, account: Option<LinkedAccount>) {
        if !self.planner.on_connected(self.now()) {
            return;
        }
        self.health_check.missed_probes = 0;
        self.health_check.connection += 1;
        self.schedule_probe(self.health_check.interval);
        (self.arguments.report)(Report::Connected(account));
    }

    /// Probes the client in a task.
    pub fn start_probe(&self) {
        let (provider, me, timeout) =
            (self.arguments.provider.clone(), self.me.clone(), self.health_check.timeout);
        let (connection, ended) = (self.health_check.connection, self.arguments.supervisor_ended.clone());
        tokio::spawn(async move {
            let probe = tokio::time::timeout(timeout, async { provider.probe().await });
            let probe = AssertUnwindSafe(probe).catch_unwind();
            let Some(result) = ended.run_until_cancelled(probe).await else { return };
            let answer = match result {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Failure::transient(format!("no answer within {timeout:?}"))),
                Err(_) => Err(Failure::transient("the client crashed")),
            };
            let _ = me.cast(Msg::ProbeResult(connection, answer));
        });
    }

    /// Applies the result of a probe.
    ///
    /// # Errors
    ///
    /// [`Unresponsive`]: the client missed too many probes. It ends the actor.
    pub fn on_probe_result(
        &mut self,
        connection: u64,
        answer: Result<(), Failure>,
    ) -> Result<(), ActorProcessingErr> {
        if connection != self.health_check.connection {
            return Ok(());
        }
        let is_connected = self.planner.link() == Link::Ready;
        match answer {
            Ok(()) if is_connected => {
                self.health_check.missed_probes = 0;
                self.schedule_probe(self.health_check.interval);
            }
            Ok(()) => {
                self.health_check.connect_failures = 0;
                self.on_connected(None);
            }
            Err(failure) => match failure.kind {
                FailureKind::LoggedOut | FailureKind::AccountBlocked | FailureKind::Permanent => {
                    self.planner.on_stopped(self.now());
                    self.report_rejected(&failure);
                }
                // Throttling is an answer: the client is alive.
                FailureKind::Throttled { .. } | FailureKind::Deferred { .. } if is_connected => {
                    self.schedule_probe(self.health_check.interval);
                }
                _ if is_connected => {
                    self.health_check.missed_probes += 1;
                    if self.health_check.missed_probes >= self.health_check.max_missed_probes {
                        return Err(Unresponsive {
                            misses: self.health_check.max_missed_probes,
                            last: failure,
                        }
                        .into());
                    }
                    self.schedule_probe(self.health_check.reprobe_delay);
                }
                _ => {
                    let reason = Reason::new(ReasonCode::Unreachable, failure.to_string());
                    (self.arguments.report)(Report::Connecting(reason, None));
                    let check = &mut self.health_check;
                    check.connect_failures = check.connect_failures.saturating_add(1);
                    let delay = check.connect_backoff.full_delay(check.connect_failures);
                    self.schedule_probe(delay);
                }
            },
        }
        Ok(())
    }

    /// Another server than WhatsApp answered an attempt. The instance sends again when WhatsApp answers a probe, which
    /// follows after `delay`.
    pub fn verify_connection(&mut self, failure: &Failure, delay: Duration) {
        tracing::warn!(instance = %self.arguments.config.id, cause = %failure, ?delay,
            "answer not written by WhatsApp; probing before more is sent");
        self.stop_probing();
        if !delay.is_zero() {
            let reason = Reason::new(ReasonCode::Unreachable, failure.to_string());
            let next = self.arguments.clock.now() + delay;
            (self.arguments.report)(Report::Connecting(reason, Some(next)));
        }
        self.schedule_probe(delay);
    }

    fn schedule_probe(&mut self, delay: Duration) {
        if let Some(earlier) = self.health_check.next_probe.take() {
            earlier.abort();
        }
        self.health_check.next_probe = Some(self.me.send_after(delay, || Msg::Probe));
    }

    /// The connection ended: stops probing it and ignores the answers of running probes.
    pub fn stop_probing(&mut self) {
        self.health_check.connection += 1;
        if let Some(next) = self.health_check.next_probe.take() {
            next.abort();
        }
    }
}
