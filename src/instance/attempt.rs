//! Runs each attempt in a separate task, and applies its outcome to the instance.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tracing::Instrument;

use crate::queue::{self, Lease};
use crate::retry;
use relevo_domain::{Class, Failure, FailureKind, FailureScope, Reason, ReasonCode, Recipient};
use relevo_metrics::Metrics;
use relevo_provider::Provider;

use super::actor::{Msg, Report, State};
use super::record::DesiredState;

impl State {
    /// Begins the attempt of a lease, or returns the lease if its recipient has no permit.
    pub fn start_attempt(&mut self, lease: Lease) {
        if has_pair_limit(&lease.message.to)
            && let Err(wait) = self.limiter.check_recipient(lease.message.to.lane())
        {
            self.limiter.refund();
            let until = self.arguments.clock.now() + wait;
            return self.postpone(lease, until);
        }
        let class = lease.id.class();
        self.in_flight += 1;
        self.bulk_in_flight += usize::from(class == Class::Bulk);
        let span = tracing::info_span!("attempt", instance = %self.arguments.config.id, message_id = %lease.id, attempt = lease.attempt);
        let work = run_attempt(
            self.arguments.provider.clone(),
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
                let _ = me.cast(Msg::AttemptEnded(class, failure, began.elapsed()));
            }
            .instrument(span),
        );
    }

    /// Frees the worker of an attempt. Some failures stop the instance or hold its messages.
    pub fn on_attempt_ended(&mut self, class: Class, failure: Option<&Failure>, took: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if class == Class::Bulk {
            self.bulk_in_flight = self.bulk_in_flight.saturating_sub(1);
        }
        self.prefetch.record_send_time(took);
        if let Some(failure) = failure {
            match failure.kind {
                FailureKind::LoggedOut | FailureKind::AccountBlocked => self.pause(failure),
                FailureKind::Throttled { retry_after } if failure.scope == FailureScope::Number => {
                    self.hold_until = Some(self.arguments.clock.now() + retry_after);
                }
                _ => {}
            }
        }
        self.start_ready_attempts();
        self.finish_drain();
        self.request_work();
    }

    /// WhatsApp rejects the account. Begins nothing more; the supervisor stores the reason and stops this actor.
    pub fn pause(&mut self, failure: &Failure) {
        self.connected = false;
        self.stopped = true;
        self.return_leases();
        let (code, advice) = match failure.kind {
            FailureKind::LoggedOut => {
                (ReasonCode::AuthRejected, "give it new credentials, or resume it once they work again")
            }
            _ => (ReasonCode::AccountBlocked, "settle it with Meta, then resume the instance"),
        };
        (self.arguments.report)(Report::Stopped(DesiredState::Paused(Reason::new(
            code,
            format!("{failure}; {advice}"),
        ))));
    }
}

/// Whether Meta limits messages to this recipient. Groups and channels have other limits.
fn has_pair_limit(recipient: &Recipient) -> bool {
    matches!(recipient, Recipient::Phone(_) | Recipient::User(_))
}

/// Runs one attempt and reports its outcome to the queue or to `retry`. Returns the failure, if it failed. Does not
/// panic when the client does.
async fn run_attempt(
    provider: Arc<dyn Provider>,
    lease: Lease,
    timeout: Duration,
    queue: queue::Handle,
    retry: retry::Handle,
    metrics: Metrics,
) -> Option<Failure> {
    let began = Instant::now();
    // The typing indicator is shown within the attempt.
    let timeout = timeout + lease.message.options.typing;
    let sending = AssertUnwindSafe(async { provider.send(lease.id, &lease.message).await }).catch_unwind();
    let outcome = match tokio::time::timeout(timeout, sending).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Failure::ambiguous("the client crashed during the attempt")),
        Err(_) => Err(Failure::ambiguous(format!("no answer within {timeout:?}"))),
    };
    let (outcome_name, code) = match &outcome {
        Ok(_) => ("sent", None),
        Err(failure) => (failure.kind.as_str(), failure.code),
    };
    metrics.record_attempt(outcome_name, code, began.elapsed());
    // If the queue or `retry` is being restarted, the lease expires and `retry` decides then.
    match outcome {
        Ok(provider_id) => {
            tracing::info!(%provider_id, "message sent");
            let _ = queue.record_sent(lease, provider_id);
            None
        }
        Err(failure) => {
            let _ = retry.report_failure(lease, failure.clone());
            Some(failure)
        }
    }
}
