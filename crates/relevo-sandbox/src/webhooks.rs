//! Sends webhooks: signed, in order, with retries until the receiver answers 200.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use relevo_clock::Random;
use reqwest::redirect::Policy;
use reqwest::{StatusCode, header};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::faults::FailStatus;
use crate::state::SandboxState;
use crate::stats::Stats;
use crate::status_schedule::{StatusPlan, StatusSchedule};
use crate::validate::Addressee;
use crate::webhook_body;
use crate::{Options, Result};
use relevo_domain::{Backoff, Secret};

/// Timeout of one attempt.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum delay between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);

/// Maximum number of webhooks that wait for a retry.
const MAX_CONCURRENT_RETRIES: usize = 64;

/// An accepted message with pending statuses.
#[derive(Debug)]
pub struct TrackedMessage {
    pub wamid: String,
    pub phone_number_id: Arc<str>,
    pub addressee: Addressee,
    pub callback_data: Option<Box<str>>,
    pub is_template: bool,
    pub status_plan: StatusPlan,
    pub failure: Option<FailStatus>,
    /// Number of resets before its acceptance; statuses of an earlier generation are dropped.
    pub generation: u64,
}

/// The URL and the signing secret of the webhook receiver.
#[derive(Debug, Clone)]
pub struct WebhookReceiver {
    pub url: Url,
    pub app_secret: Option<Secret>,
}

/// Sends webhooks to the receiver.
#[derive(Debug)]
pub struct WebhookSender {
    client: reqwest::Client,
    random: Random,
    receiver: RwLock<Option<Arc<WebhookReceiver>>>,
    queue: mpsc::Sender<TrackedMessage>,
    generation: AtomicU64,
    /// Messages with pending statuses, as the dispatcher last stored it.
    pending: AtomicUsize,
    retry_permits: Arc<Semaphore>,
    tracker: TaskTracker,
    attempts: u32,
    retry_after: Duration,
    stats: Arc<Stats>,
}

/// Result of the first attempts of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The receiver answered 200.
    Accepted,
    /// The receiver gave this answer or none. Retries follow unless the webhook was dropped.
    Rejected(Option<StatusCode>),
    /// There is no receiver.
    NoReceiver,
}

impl WebhookSender {
    /// A sender, and the queue of accepted messages for [`dispatch`].
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(
        options: &Options,
        random: Random,
        stats: Arc<Stats>,
    ) -> Result<(Self, mpsc::Receiver<TrackedMessage>)> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Fails only when another thread has installed a provider.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .tcp_nodelay(true)
            .timeout(RESPONSE_TIMEOUT)
            .user_agent("facebookexternalua")
            .build()?;
        let receiver = options
            .webhook_url
            .clone()
            .map(|url| Arc::new(WebhookReceiver { url, app_secret: options.app_secret.clone() }));
        let (queue, accepted) = mpsc::channel(options.webhook_queue);
        let sender = Self {
            client,
            random,
            receiver: RwLock::new(receiver),
            queue,
            generation: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            retry_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_RETRIES)),
            tracker: TaskTracker::new(),
            attempts: options.webhook_attempts.max(1),
            retry_after: options.webhook_retry_after,
            stats,
        };
        Ok((sender, accepted))
    }

    /// The current receiver.
    pub fn receiver(&self) -> Option<Arc<WebhookReceiver>> {
        self.receiver.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the receiver.
    pub fn set_receiver(&self, receiver: Option<WebhookReceiver>) {
        *self.receiver.write().unwrap_or_else(PoisonError::into_inner) = receiver.map(Arc::new);
    }

    /// Whether there is a receiver.
    pub fn has_receiver(&self) -> bool {
        self.receiver.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Number of resets.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Number of messages with pending statuses.
    pub fn pending_count(&self) -> usize {
        self.pending.load(Ordering::Relaxed) + self.queue.max_capacity() - self.queue.capacity()
    }

    /// Drops all pending statuses.
    pub fn discard_pending(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Schedules the statuses of a message. Never waits: beyond the limit the statuses are dropped and counted.
    pub fn track(&self, message: TrackedMessage) {
        if self.queue.try_send(message).is_err() {
            self.stats.tracking_skipped.add(1);
        }
    }

    /// Sends a webhook with this number of updates: one attempt, a second one immediately, and retries with
    /// exponential backoff in the background. Drops the webhook when too many webhooks wait for a retry.
    pub async fn deliver(&self, shared: &Arc<SandboxState>, body: Bytes, updates: usize) -> DeliveryResult {
        let delivery = self.attempt_twice(&body, updates).await;
        if matches!(delivery, DeliveryResult::Rejected(_)) {
            match Arc::clone(&self.retry_permits).try_acquire_owned() {
                Ok(permit) => self.spawn_retries(shared, body, updates, permit),
                Err(_) => self.record_undelivered(updates),
            }
        }
        delivery
    }

    /// Like [`deliver`](Self::deliver), but waits when too many webhooks wait for a retry. Updates accumulate during
    /// this wait.
    async fn deliver_with_backpressure(&self, shared: &Arc<SandboxState>, body: Bytes, updates: usize) {
        if matches!(self.attempt_twice(&body, updates).await, DeliveryResult::Rejected(_)) {
            match Arc::clone(&self.retry_permits).acquire_owned().await {
                Ok(permit) => self.spawn_retries(shared, body, updates, permit),
                Err(_) => self.record_undelivered(updates),
            }
        }
    }

    async fn attempt_twice(&self, body: &Bytes, updates: usize) -> DeliveryResult {
        let Some(receiver) = self.receiver() else { return DeliveryResult::NoReceiver };
        let mut answer = None;
        for _ in 0..self.attempts.min(2) {
            answer = self.attempt(&receiver, body).await;
            if answer == Some(StatusCode::OK) {
                self.record_delivered(updates);
                return DeliveryResult::Accepted;
            }
        }
        DeliveryResult::Rejected(answer)
    }

    fn record_delivered(&self, updates: usize) {
        self.stats.webhooks_sent.add(1);
        self.stats.updates_sent.add(updates);
    }

    fn record_undelivered(&self, updates: usize) {
        self.stats.webhooks_given_up.add(1);
        self.stats.updates_given_up.add(updates);
    }

    fn spawn_retries(
        &self,
        shared: &Arc<SandboxState>,
        body: Bytes,
        updates: usize,
        permit: OwnedSemaphorePermit,
    ) {
        if self.attempts <= 2 {
            self.record_undelivered(updates);
            return;
        }
        let shared = Arc::clone(shared);
        self.tracker.spawn(async move {
            let _permit = permit;
            let closing = shared.closing.clone();
            closing.run_until_cancelled(shared.webhook_sender.retry_with_backoff(body, updates)).await
        });
    }

    async fn retry_with_backoff(&self, body: Bytes, updates: usize) {
        let generation = self.generation();
        let backoff = Backoff::new(self.retry_after, 2, MAX_RETRY_DELAY.max(self.retry_after));
        for attempt in 2..self.attempts {
            tokio::time::sleep(backoff.full_delay(attempt - 1)).await;
            // The receiver may have changed during the delay.
            let Some(receiver) = self.receiver() else { break };
            if generation != self.generation() {
                return;
            }
            if self.attempt(&receiver, &body).await == Some(StatusCode::OK) {
                self.record_delivered(updates);
                return;
            }
        }
        self.record_undelivered(updates);
    }

    /// One POST. Returns the status of the answer, if there was one.
    async fn attempt(&self, receiver: &WebhookReceiver, body: &Bytes) -> Option<StatusCode> {
        let mut request =
            self.client.post(receiver.url.clone()).header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = &receiver.app_secret {
            request = request.header("X-Hub-Signature-256", signature(secret, body));
        }
        let answer = match request.body(body.clone()).send().await {
            Ok(response) => {
                let status = response.status();
                // Read to the end, so that the connection can be reused.
                drain_response(response).await;
                Some(status)
            }
            Err(error) => {
                tracing::debug!(%error, "webhook receiver did not answer");
                None
            }
        };
        if answer != Some(StatusCode::OK) {
            self.stats.webhooks_failed.add(1);
        }
        answer
    }

    /// Sends Meta's verification request: the receiver must return the challenge.
    ///
    /// # Errors
    /// Describes the answer of a receiver that failed verification.
    pub async fn verify(&self, url: &Url, verify_token: &Secret) -> Result<(), String> {
        let challenge = format!("{:09}", self.random.value::<u32>() % 1_000_000_000);
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("hub.mode", "subscribe")
            .append_pair("hub.challenge", &challenge)
            .append_pair("hub.verify_token", verify_token.expose());
        let response = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| format!("no answer: {}", error.without_url()))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(format!("answered {status} instead of 200"));
        }
        let body =
            response.bytes().await.map_err(|error| format!("incomplete answer: {}", error.without_url()))?;
        if bool::from(body.ct_eq(challenge.as_bytes())) {
            Ok(())
        } else {
            Err("answered 200, but the body is not the challenge".into())
        }
    }
}

/// Maximum number of bytes that are read of a receiver's answer.
const MAX_RESPONSE_BYTES: usize = 64 << 10;

async fn drain_response(mut response: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > MAX_RESPONSE_BYTES {
            return;
        }
    }
}

/// `sha256=` and the HMAC of the raw body under the app secret, in hexadecimal.
pub fn signature(secret: &Secret, body: &[u8]) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256=");
    // HMAC accepts keys of any length.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) {
        mac.update(body);
        for byte in mac.finalize().into_bytes() {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}

/// Sends the statuses of accepted messages when they are due, until the server closes.
///
/// Only one webhook is in flight: this keeps statuses in order, and batches form only when the receiver is slower
/// than the sender.
pub async fn dispatch(shared: Arc<SandboxState>, mut accepted: mpsc::Receiver<TrackedMessage>) {
    let closing = shared.closing.clone();
    closing.run_until_cancelled(run_dispatch(&shared, &mut accepted)).await;
    shared.webhook_sender.tracker.close();
    shared.webhook_sender.tracker.wait().await;
}

async fn run_dispatch(shared: &Arc<SandboxState>, accepted: &mut mpsc::Receiver<TrackedMessage>) {
    let options = &shared.options;
    let sender = &shared.webhook_sender;
    let capacity = options.webhook_queue;
    let mut schedule = StatusSchedule::new(options.sent_after, options.delivered_after, options.read_after);
    let mut generation = sender.generation();
    loop {
        let next_due = schedule.next_due();
        let due = async {
            match next_due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = accepted.recv(), if schedule.len() < capacity => match message {
                Some(message) => schedule.push(message, Instant::now()),
                None => return,
            },
            () = due => {}
        }
        loop {
            let now = Instant::now();
            while schedule.len() < capacity
                && let Ok(message) = accepted.try_recv()
            {
                schedule.push(message, now);
            }
            if generation != sender.generation() {
                generation = sender.generation();
                schedule.retain(|message| message.generation == generation);
            }
            sender.pending.store(schedule.len(), Ordering::Relaxed);
            let updates = schedule.take_due(now, options.webhook_batch);
            if updates.is_empty() {
                break;
            }
            match webhook_body::statuses_body(shared, &updates, shared.clock.now()) {
                Ok(body) => sender.deliver_with_backpressure(shared, body.into(), updates.len()).await,
                Err(error) => tracing::error!(%error, "statuses could not be serialised; dropping them"),
            }
        }
    }
}

/// Sends Meta's verification request to the configured receiver and logs the result.
pub async fn verify_receiver(shared: &SandboxState, verify_token: &Secret) {
    let Some(receiver) = shared.webhook_sender.receiver() else { return };
    match shared.webhook_sender.verify(&receiver.url, verify_token).await {
        Ok(()) => tracing::info!(url = %receiver.url, "webhook receiver passed verification"),
        Err(reason) => {
            tracing::warn!(url = %receiver.url, %reason, "webhook receiver failed verification")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_hmac_sha256_in_hexadecimal() {
        // RFC 4231, test case 2.
        let signed = signature(&Secret::new("Jefe"), b"what do ya want for nothing?");
        assert_eq!(signed, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
