//! Runs each attempt in a separate task, and reports accounts that WhatsApp rejects.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use crate::queue::{self, Lease};
use crate::retry;
use relevo_domain::{Failure, FailureKind, Reason, ReasonCode};
use relevo_metrics::Metrics;
use relevo_provider::Provider;

use super::actor::{Msg, Report, State};
use super::record::DesiredState;

impl State {
    /// Runs the attempt of a lease in a task.
    pub(super) fn start_attempt(&self, lease: Lease) {
        let class = lease.id.class();
        let span = tracing::info_span!("attempt", instance = %self.arguments.config.id, message_id = %lease.id, attempt = lease.attempt);
        let attempt = run_attempt(
            self.arguments.provider.clone(),
            lease,
            self.arguments.options.send_timeout,
            self.arguments.queue.clone(),
            self.arguments.retry.clone(),
            self.arguments.metrics.clone(),
        );
        let (me, ended) = (self.me.clone(), self.arguments.supervisor_ended.clone());
        tokio::spawn(
            async move {
                let started = Instant::now();
                let Some(failure) = ended.run_until_cancelled(attempt).await else { return };
                let _ = me.cast(Msg::AttemptEnded(class, failure, started.elapsed()));
            }
            .instrument(span),
        );
    }

    /// WhatsApp rejects the account. The supervisor stores the reason and stops this actor.
    pub(super) fn report_rejected(&self, failure: &Failure) {
        let (code, advice) = match failure.kind {
            FailureKind::LoggedOut => {
                (ReasonCode::AuthRejected, "give it new credentials, or resume it once they work again")
            }
            _ => (ReasonCode::AccountBlocked, "settle it with Meta, then resume the instance"),
        };
        let reason = Reason::new(code, format!("{failure}; {advice}"));
        (self.arguments.report)(Report::Stopped(DesiredState::Paused(reason)));
    }
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
    let started = Instant::now();
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
    metrics.record_attempt(outcome_name, code, started.elapsed());
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
