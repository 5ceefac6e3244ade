//! Sends webhooks: signed, in order, and again when the receiver does not answer with 200.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
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
use relevo_domain::Secret;

/// How long a receiver may take for one webhook.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest pause between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);

/// Webhooks that wait for another attempt at once.
const MAX_CONCURRENT_RETRIES: usize = 64;

/// An accepted message whose statuses are to be told.
#[derive(Debug)]
pub struct TrackedMessage {
    pub wamid: String,
    pub phone_number_id: Arc<str>,
    pub addressee: Addressee,
    pub callback_data: Option<Box<str>>,
    pub is_template: bool,
    pub status_plan: StatusPlan,
    pub failure: Option<FailStatus>,
    /// The reset after which it was accepted; statuses of an earlier generation are dropped.
    pub generation: u64,
}

/// Where webhooks go, and with which secret they are signed.
#[derive(Debug, Clone)]
pub struct WebhookReceiver {
    pub url: Url,
    pub app_secret: Option<Secret>,
}

/// Brings webhooks to the receiver.
#[derive(Debug)]
pub struct WebhookSender {
    client: reqwest::Client,
    receiver: RwLock<Option<Arc<WebhookReceiver>>>,
    queue: mpsc::Sender<TrackedMessage>,
    generation: AtomicU64,
    /// Messages whose statuses are still to be told, as the dispatcher last saw it.
    pending: AtomicUsize,
    retry_permits: Arc<Semaphore>,
    tracker: TaskTracker,
    attempts: u32,
    retry_after: Duration,
    stats: Arc<Stats>,
}

/// What became of a webhook in its first attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryResult {
    Accepted,
    /// Not taken: by which answer, if there was one. It is tried again unless it was given up.
    Rejected(Option<StatusCode>),
    /// There is no receiver.
    NoReceiver,
}

impl WebhookSender {
    pub fn new(options: &Options, stats: Arc<Stats>) -> Result<(Self, mpsc::Receiver<TrackedMessage>)> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Fails only when another thread was faster, and then there is one.
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
        let courier = Self {
            client,
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
        Ok((courier, accepted))
    }

    pub fn receiver(&self) -> Option<Arc<WebhookReceiver>> {
        self.receiver.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_receiver(&self, receiver: Option<WebhookReceiver>) {
        *self.receiver.write().unwrap_or_else(PoisonError::into_inner) = receiver.map(Arc::new);
    }

    /// Whether anybody wants statuses.
    pub fn has_receiver(&self) -> bool {
        self.receiver.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Messages whose statuses are still to be told.
    pub fn pending_count(&self) -> usize {
        self.pending.load(Ordering::Relaxed) + self.queue.max_capacity() - self.queue.capacity()
    }

    /// Drops all statuses that wait.
    pub fn discard_pending(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Has the statuses of a message told. Never waits: when too many do, they are left out and counted.
    pub fn track(&self, message: TrackedMessage) {
        if self.queue.try_send(message).is_err() {
            self.stats.tracking_skipped.add(1);
        }
    }

    /// Sends a webhook with so many updates: once, once more at once, and then, in the background, with
    /// growing pauses until the attempts are used up. When too many are being repeated already it is given up.
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

    /// The same, but waits when too many are being repeated: meanwhile updates gather behind this one.
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
        let mut pause = self.retry_after;
        for _ in 2..self.attempts {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY_DELAY);
            // The receiver may have moved meanwhile.
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

    /// One POST; the status of the answer, if there was one.
    async fn attempt(&self, receiver: &WebhookReceiver, body: &Bytes) -> Option<StatusCode> {
        let mut request =
            self.client.post(receiver.url.clone()).header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = &receiver.app_secret {
            request = request.header("X-Hub-Signature-256", signature(secret, body));
        }
        let answer = match request.body(body.clone()).send().await {
            Ok(response) => {
                let status = response.status();
                // Read to the end, so that the connection can be used again.
                drain_response(response).await;
                Some(status)
            }
            Err(error) => {
                tracing::debug!(%error, "the webhook receiver did not answer");
                None
            }
        };
        if answer != Some(StatusCode::OK) {
            self.stats.webhooks_failed.add(1);
        }
        answer
    }

    /// Meta's verification request: the receiver must repeat the challenge.
    ///
    /// # Errors
    /// What the receiver did instead, in words.
    pub async fn verify(&self, url: &Url, verify_token: &Secret) -> Result<(), String> {
        let challenge = rand::random_range(100_000_000..=999_999_999_u32).to_string();
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
            response.bytes().await.map_err(|error| format!("no whole answer: {}", error.without_url()))?;
        if bool::from(body.ct_eq(challenge.as_bytes())) {
            Ok(())
        } else {
            Err("answered 200, but the body is not the challenge".into())
        }
    }
}

/// The most of a receiver's answer that is read.
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
    // HMAC takes keys of any length.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) {
        mac.update(body);
        for byte in mac.finalize().into_bytes() {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}

/// Follows accepted messages and tells their statuses when they are due, until the server closes.
///
/// One webhook is under way at a time: that keeps statuses in order, and lets them gather into batches exactly
/// when the receiver is slower than the sender.
pub async fn dispatch(shared: Arc<SandboxState>, mut accepted: mpsc::Receiver<TrackedMessage>) {
    let closing = shared.closing.clone();
    closing.run_until_cancelled(run_dispatch(&shared, &mut accepted)).await;
    shared.webhook_sender.tracker.close();
    shared.webhook_sender.tracker.wait().await;
}

async fn run_dispatch(shared: &Arc<SandboxState>, accepted: &mut mpsc::Receiver<TrackedMessage>) {
    let options = &shared.options;
    let courier = &shared.webhook_sender;
    let room = options.webhook_queue;
    let mut timeline = StatusSchedule::new(options.sent_after, options.delivered_after, options.read_after);
    let mut generation = courier.generation();
    loop {
        let next_due = timeline.next_due();
        let due = async {
            match next_due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = accepted.recv(), if timeline.len() < room => match message {
                Some(message) => timeline.push(message, Instant::now()),
                None => return,
            },
            () = due => {}
        }
        loop {
            let now = Instant::now();
            while timeline.len() < room
                && let Ok(message) = accepted.try_recv()
            {
                timeline.push(message, now);
            }
            if generation != courier.generation() {
                generation = courier.generation();
                timeline.retain(|message| message.generation == generation);
            }
            courier.pending.store(timeline.len(), Ordering::Relaxed);
            let updates = timeline.take_due(now, options.webhook_batch);
            if updates.is_empty() {
                break;
            }
            match webhook_body::statuses_body(shared, &updates, shared.clock.now()) {
                Ok(body) => courier.deliver_with_backpressure(shared, body.into(), updates.len()).await,
                Err(error) => tracing::error!(%error, "statuses could not be written as JSON"),
            }
        }
    }
}

/// Makes Meta's verification request to the configured receiver and says in the log how it went.
pub async fn verify_receiver(shared: &SandboxState, verify_token: &Secret) {
    let Some(receiver) = shared.webhook_sender.receiver() else { return };
    match shared.webhook_sender.verify(&receiver.url, verify_token).await {
        Ok(()) => tracing::info!(url = %receiver.url, "the webhook receiver passed verification"),
        Err(reason) => {
            tracing::warn!(url = %receiver.url, %reason, "the webhook receiver failed verification")
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
