//! Whether the client still lives: asked now and then, and replaced when it does not answer.
//!
//! A client without a connection of its own is connected when it answers. One with a lasting connection says by itself
//! when it is connected; it is asked whether that is still true.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::ActorProcessingErr;

use relevo_domain::{Failure, FailureKind, ProviderKind, Reason};
use relevo_provider::LinkedAccount;

use super::Options;
use super::actor::{Msg, Report, State, Timer};
use super::leasing::Hungry;

/// The client is connected and lifeless: it must be replaced.
#[derive(Debug, thiserror::Error)]
#[error("the client answered none of {misses} probes: {last}")]
pub(super) struct Lifeless {
    misses: u32,
    last: Failure,
}

/// The pause before the second attempt to connect; doubled up to the probe interval.
const FIRST_CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A lasting connection that missed a probe is asked again so soon, because messages wait behind it.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// How a client is asked for signs of life, and how it has answered.
pub(super) struct Pulse {
    interval: Duration,
    timeout: Duration,
    /// The pause before the next probe after one that was missed.
    after_miss: Duration,
    /// So many probes in a row without an answer, and the client counts as dead.
    misses: u32,
    missed: u32,
    connect_pause: Duration,
    /// Counts the connections of a client that keeps them, so that an answer is about the one that was asked.
    connection: u64,
    next: Option<Timer>,
}

impl Pulse {
    /// A lasting connection that went dead is noticed within `interval + timeout + SECOND_LOOK + timeout`: 38 s with the
    /// defaults.
    pub fn new(options: &Options, kind: ProviderKind) -> Self {
        let (linked, lasts) = (&options.linked, kind.keeps_connection());
        let (interval, timeout) = match lasts {
            true => (linked.probe_interval, linked.probe_timeout),
            false => (options.probe_interval, options.probe_timeout),
        };
        let (after_miss, misses) = if lasts { (SECOND_LOOK.min(interval), 2) } else { (interval, 3) };
        let (missed, connect_pause, connection, next) = (0, FIRST_CONNECT_PAUSE, 0, None);
        Self { interval, timeout, after_miss, misses, missed, connect_pause, connection, next }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some(next) = self.next.take() {
            next.abort();
        }
    }
}

impl State {
    /// Messages can be sent from here on.
    pub fn connect(&mut self, account: Option<LinkedAccount>) {
        if self.draining.is_some() || self.over {
            return;
        }
        self.connected = true;
        self.pulse.missed = 0;
        self.pulse.connection += 1;
        self.probe_in(self.pulse.interval);
        (self.arguments.report)(Report::Connected(account));
        self.hungry = Hungry::FOR_ALL;
        self.seek_work();
    }

    pub fn probe(&self) {
        let (provider, me, timeout) = (self.arguments.provider.clone(), self.me.clone(), self.pulse.timeout);
        let connection = self.pulse.connection;
        tokio::spawn(async move {
            let asked = tokio::time::timeout(timeout, async { provider.probe().await });
            let answer = match AssertUnwindSafe(asked).catch_unwind().await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Failure::transient(format!("no answer within {timeout:?}"))),
                Err(_) => Err(Failure::transient("the client crashed")),
            };
            let _ = me.cast(Msg::Probed(connection, answer));
        });
    }

    pub fn probed(&mut self, connection: u64, answer: Result<(), Failure>) -> Result<(), ActorProcessingErr> {
        if connection != self.pulse.connection {
            return Ok(());
        }
        match answer {
            Ok(()) if self.connected => {
                self.pulse.missed = 0;
                self.probe_in(self.pulse.interval);
            }
            Ok(()) => {
                self.pulse.connect_pause = FIRST_CONNECT_PAUSE;
                self.connect(None);
            }
            Err(failure) => match failure.kind {
                FailureKind::LoggedOut | FailureKind::AccountBlocked | FailureKind::Permanent => {
                    self.pause(&failure);
                }
                // An answer that asks for patience is an answer.
                FailureKind::Throttled { .. } | FailureKind::Deferred { .. } if self.connected => {
                    self.probe_in(self.pulse.interval);
                }
                _ if self.connected => {
                    self.pulse.missed += 1;
                    if self.pulse.missed >= self.pulse.misses {
                        return Err(Lifeless { misses: self.pulse.misses, last: failure }.into());
                    }
                    self.probe_in(self.pulse.after_miss);
                }
                _ => {
                    let reason = Reason::new("unreachable", failure.to_string());
                    (self.arguments.report)(Report::Connecting(reason, None));
                    let pause = self.pulse.connect_pause.min(self.pulse.interval);
                    self.pulse.connect_pause = self.pulse.connect_pause.saturating_mul(2);
                    self.probe_in(pause);
                }
            },
        }
        Ok(())
    }

    fn probe_in(&mut self, pause: Duration) {
        if let Some(earlier) = self.pulse.next.take() {
            earlier.abort();
        }
        self.pulse.next = Some(self.me.send_after(pause, || Msg::Probe));
    }

    /// The connection is over: nothing is asked about it any more.
    pub fn stop_probing(&mut self) {
        self.pulse.connection += 1;
        if let Some(next) = self.pulse.next.take() {
            next.abort();
        }
    }
}
