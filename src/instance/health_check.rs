//! Whether the client still lives: asked now and then, and replaced when it does not answer.
//!
//! A client without a connection of its own is connected when it answers. One with a lasting connection says by itself
//! when it is connected; it is asked whether that is still true.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::ActorProcessingErr;

use relevo_domain::{Capabilities, Failure, FailureKind, Reason};
use relevo_provider::LinkedAccount;

use super::Options;
use super::actor::{Msg, Report, State, Timer};
use super::leasing::Demand;

/// The client is connected and lifeless: it must be replaced.
#[derive(Debug, thiserror::Error)]
#[error("the client answered none of {misses} probes: {last}")]
pub(super) struct Unresponsive {
    misses: u32,
    last: Failure,
}

/// The pause before the second attempt to connect; doubled up to the probe interval.
const INITIAL_CONNECT_DELAY: Duration = Duration::from_millis(500);

/// A lasting connection that missed a probe is asked again so soon, because messages wait behind it.
const REPROBE_DELAY: Duration = Duration::from_secs(2);

/// How a client is asked for signs of life, and how it has answered.
pub(super) struct HealthCheck {
    interval: Duration,
    timeout: Duration,
    /// The pause before the next probe after one that was missed.
    reprobe_delay: Duration,
    /// So many probes in a row without an answer, and the client counts as dead.
    max_missed_probes: u32,
    missed_probes: u32,
    connect_delay: Duration,
    /// Counts the connections of a client that keeps them, so that an answer is about the one that was asked.
    connection: u64,
    next_probe: Option<Timer>,
}

impl HealthCheck {
    /// A lasting connection that went dead is noticed within `interval + timeout + SECOND_LOOK + timeout`: 38 s with the
    /// defaults.
    pub fn new(options: &Options, capabilities: Capabilities) -> Self {
        let (linked, lasts) = (&options.linked, capabilities.keeps_connection);
        let (interval, timeout) = match lasts {
            true => (linked.probe_interval, linked.probe_timeout),
            false => (options.probe_interval, options.probe_timeout),
        };
        let (reprobe_delay, max_missed_probes) =
            if lasts { (REPROBE_DELAY.min(interval), 2) } else { (interval, 3) };
        let (missed_probes, connect_delay, connection, next_probe) = (0, INITIAL_CONNECT_DELAY, 0, None);
        Self {
            interval,
            timeout,
            reprobe_delay,
            max_missed_probes,
            missed_probes,
            connect_delay,
            connection,
            next_probe,
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
    /// Messages can be sent from here on.
    pub fn on_connected(&mut self, account: Option<LinkedAccount>) {
        if self.draining.is_some() || self.stopped {
            return;
        }
        self.connected = true;
        self.health_check.missed_probes = 0;
        self.health_check.connection += 1;
        self.schedule_probe(self.health_check.interval);
        (self.arguments.report)(Report::Connected(account));
        self.demand = Demand::ALL;
        self.request_work();
    }

    pub fn start_probe(&self) {
        let (provider, me, timeout) =
            (self.arguments.provider.clone(), self.me.clone(), self.health_check.timeout);
        let connection = self.health_check.connection;
        tokio::spawn(async move {
            let asked = tokio::time::timeout(timeout, async { provider.probe().await });
            let answer = match AssertUnwindSafe(asked).catch_unwind().await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Failure::transient(format!("no answer within {timeout:?}"))),
                Err(_) => Err(Failure::transient("the client crashed")),
            };
            let _ = me.cast(Msg::ProbeResult(connection, answer));
        });
    }

    pub fn on_probe_result(
        &mut self,
        connection: u64,
        answer: Result<(), Failure>,
    ) -> Result<(), ActorProcessingErr> {
        if connection != self.health_check.connection {
            return Ok(());
        }
        match answer {
            Ok(()) if self.connected => {
                self.health_check.missed_probes = 0;
                self.schedule_probe(self.health_check.interval);
            }
            Ok(()) => {
                self.health_check.connect_delay = INITIAL_CONNECT_DELAY;
                self.on_connected(None);
            }
            Err(failure) => match failure.kind {
                FailureKind::LoggedOut | FailureKind::AccountBlocked | FailureKind::Permanent => {
                    self.pause(&failure);
                }
                // An answer that asks for patience is an answer.
                FailureKind::Throttled { .. } | FailureKind::Deferred { .. } if self.connected => {
                    self.schedule_probe(self.health_check.interval);
                }
                _ if self.connected => {
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
                    let reason = Reason::new("unreachable", failure.to_string());
                    (self.arguments.report)(Report::Connecting(reason, None));
                    let pause = self.health_check.connect_delay.min(self.health_check.interval);
                    self.health_check.connect_delay = self.health_check.connect_delay.saturating_mul(2);
                    self.schedule_probe(pause);
                }
            },
        }
        Ok(())
    }

    fn schedule_probe(&mut self, pause: Duration) {
        if let Some(earlier) = self.health_check.next_probe.take() {
            earlier.abort();
        }
        self.health_check.next_probe = Some(self.me.send_after(pause, || Msg::Probe));
    }

    /// The connection is over: nothing is asked about it any more.
    pub fn stop_probing(&mut self) {
        self.health_check.connection += 1;
        if let Some(next) = self.health_check.next_probe.take() {
            next.abort();
        }
    }
}
