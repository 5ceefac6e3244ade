//! Scripted faults: the action, the matching requests, and the number of repetitions.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::errors::{GraphError, GraphRejection, code};
use crate::rate_limit::GcraLimiter;

/// Maximum number of armed faults.
pub const MAX_FAULTS: usize = 1000;

/// A fault: applies `action` to matching requests, `times` times (without limit when absent).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    #[serde(rename = "match", default)]
    pub matching: RequestMatch,
    pub action: FaultAction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<NonZeroU64>,
}

/// Selects requests. Absent fields match everything; an absent `kind` matches messages of any type.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestMatch {
    /// The recipient, without regard to punctuation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// A message type (`text`, `template`, …), or `message`, `read`, `media`, `probe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only every n-th of the otherwise matching requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<NonZeroU64>,
}

/// The actions of a fault. Several may be combined: the delay comes first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultAction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignAnswer>,
    /// Requests beyond this rate are refused; those within it are not affected by the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Throttle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close: Option<FaultPoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hang: Option<FaultPoint>,
    pub drop_statuses: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_status: Option<FailStatus>,
}

/// When a connection is cut or held, relative to the acceptance of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultPoint {
    /// The request is not accepted.
    Before,
    /// The request is accepted and recorded in the journal, but not answered.
    After,
}

/// An error answer with this code. `status` and `details` replace Meta's defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorAction {
    pub code: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// An answer that Meta did not write, such as a proxy's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignAnswer {
    pub status: u16,
    /// `Retry-After`, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// A rate limit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    pub per_second: f64,
    /// Burst size; default 1.
    #[serde(default = "default_burst")]
    pub burst: NonZeroU32,
    /// Error code; default 130429. 131056 is the limit of a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
}

fn default_burst() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// The request is answered with 200, and after `sent` follows the status `failed` with this error.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailStatus {
    pub code: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// The properties of a request that faults match.
#[derive(Debug, Clone, Copy)]
pub enum RequestKind<'a> {
    Message { to: Option<&'a str>, kind: &'a str },
    Read,
    Media,
    Probe,
}

impl RequestMatch {
    fn matches(&self, request: RequestKind<'_>) -> bool {
        let kind = self.kind.as_deref().unwrap_or("message");
        match request {
            RequestKind::Message { to, kind: message } => {
                (kind == "message" || kind == message)
                    && self.to.as_deref().is_none_or(|wanted| Some(wanted) == to)
            }
            RequestKind::Read => kind == "read" && self.to.is_none(),
            RequestKind::Media => kind == "media" && self.to.is_none(),
            RequestKind::Probe => kind == "probe" && self.to.is_none(),
        }
    }
}

#[derive(Debug)]
struct ArmedFault {
    id: u64,
    fault: Fault,
    action: Arc<FaultAction>,
    limiter: Option<GcraLimiter>,
    matched: u64,
    triggered: u64,
}

impl ArmedFault {
    /// Whether the fault applies to this request. Counts matching requests.
    fn try_trigger(&mut self, request: RequestKind<'_>, now: Instant) -> bool {
        if self.is_exhausted() || !self.fault.matching.matches(request) {
            return false;
        }
        self.matched += 1;
        if self.fault.matching.every.is_some_and(|every| self.matched % every != 0) {
            return false;
        }
        if self.limiter.as_mut().is_some_and(|limiter| limiter.try_acquire(now)) {
            return false;
        }
        self.triggered += 1;
        true
    }

    fn is_exhausted(&self) -> bool {
        self.fault.times.is_some_and(|times| self.triggered >= times.get())
    }
}

/// An armed fault in the format of the control plane.
#[derive(Debug, Serialize)]
pub struct FaultView {
    pub id: u64,
    #[serde(flatten)]
    pub fault: Fault,
    /// Requests that matched, before `every` and the throttle.
    pub seen: u64,
    /// Requests to which the fault applied.
    pub struck: u64,
    /// The fault has been applied `times` times and has no further effect.
    pub spent: bool,
}

#[derive(Debug, Default)]
struct Inner {
    next_id: u64,
    armed: Vec<ArmedFault>,
}

/// The armed faults. Without an armed fault a request costs one atomic load.
#[derive(Debug, Default)]
pub struct Faults {
    has_armed: AtomicBool,
    inner: Mutex<Inner>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms faults after the existing ones. Returns their ids, or `None` when there would be too many.
    pub fn arm(&self, faults: Vec<Fault>) -> Option<Vec<u64>> {
        let mut inner = self.lock();
        // Exhausted faults stay visible until their places are needed.
        if inner.armed.len() + faults.len() > MAX_FAULTS {
            inner.armed.retain(|armed| !armed.is_exhausted());
        }
        if inner.armed.len() + faults.len() > MAX_FAULTS {
            return None;
        }
        let mut ids = Vec::with_capacity(faults.len());
        for mut fault in faults {
            inner.next_id += 1;
            let id = inner.next_id;
            fault.matching.to = fault.matching.to.map(|to| strip_punctuation(&to).into_owned());
            let throttle = fault.action.throttle.as_ref();
            let limiter =
                throttle.map(|throttle| GcraLimiter::new(throttle.per_second, throttle.burst.get()));
            let action = Arc::new(fault.action.clone());
            inner.armed.push(ArmedFault { id, fault, action, limiter, matched: 0, triggered: 0 });
            ids.push(id);
        }
        self.has_armed.store(!inner.armed.is_empty(), Ordering::Release);
        Some(ids)
    }

    /// Disarms the fault with this id, or all faults. Returns the number of disarmed faults.
    pub fn disarm(&self, id: Option<u64>) -> usize {
        let mut inner = self.lock();
        let before = inner.armed.len();
        inner.armed.retain(|armed| id.is_some_and(|id| armed.id != id));
        self.has_armed.store(!inner.armed.is_empty(), Ordering::Release);
        before - inner.armed.len()
    }

    /// The armed faults in the order of their ids.
    pub fn list(&self) -> Vec<FaultView> {
        let view = |armed: &ArmedFault| FaultView {
            id: armed.id,
            fault: armed.fault.clone(),
            seen: armed.matched,
            struck: armed.triggered,
            spent: armed.is_exhausted(),
        };
        self.lock().armed.iter().map(view).collect()
    }

    /// The first fault that applies to this request.
    pub fn trigger(&self, request: RequestKind<'_>) -> TriggeredFault {
        if !self.has_armed.load(Ordering::Acquire) {
            return TriggeredFault(None);
        }
        let now = Instant::now();
        let mut inner = self.lock();
        TriggeredFault(
            inner
                .armed
                .iter_mut()
                .find_map(|armed| armed.try_trigger(request, now).then(|| Arc::clone(&armed.action))),
        )
    }
}

/// The fault that applies to a request, or none.
#[derive(Debug, Clone)]
pub struct TriggeredFault(Option<Arc<FaultAction>>);

impl TriggeredFault {
    /// Applies the actions that precede validation: delay, hang, close, foreign answer, error.
    ///
    /// # Errors
    /// The fault rejects the request.
    pub async fn apply_before(&self, closing: &CancellationToken) -> Result<(), GraphRejection> {
        let Some(action) = &self.0 else { return Ok(()) };
        if let Some(delay) = action.delay_ms {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(delay)) => {}
                () = closing.cancelled() => return Err(GraphRejection::AbortConnection),
            }
        }
        if action.hang == Some(FaultPoint::Before) {
            closing.cancelled().await;
            return Err(GraphRejection::AbortConnection);
        }
        if action.close == Some(FaultPoint::Before) {
            return Err(GraphRejection::AbortConnection);
        }
        if let Some(answer) = &action.foreign {
            return Err(GraphRejection::Foreign(answer.clone()));
        }
        match action.injected_error() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Applies the actions that follow acceptance: hang, close.
    ///
    /// # Errors
    /// The fault suppresses the answer.
    pub async fn apply_after(&self, closing: &CancellationToken) -> Result<(), GraphRejection> {
        let Some(action) = &self.0 else { return Ok(()) };
        if action.hang == Some(FaultPoint::After) {
            closing.cancelled().await;
            return Err(GraphRejection::AbortConnection);
        }
        if action.close == Some(FaultPoint::After) {
            return Err(GraphRejection::AbortConnection);
        }
        Ok(())
    }

    /// Whether an accepted request is answered.
    pub fn sends_response(&self) -> bool {
        let suppresses_answer = |action: &Arc<FaultAction>| {
            action.hang == Some(FaultPoint::After) || action.close == Some(FaultPoint::After)
        };
        !self.0.as_ref().is_some_and(suppresses_answer)
    }

    /// Whether the accepted message gets no statuses.
    pub fn drops_statuses(&self) -> bool {
        self.0.as_ref().is_some_and(|action| action.drop_statuses)
    }

    /// The error of a status `failed`, if the message gets one.
    pub fn fail_status(&self) -> Option<FailStatus> {
        self.0.as_ref().and_then(|action| action.fail_status.clone())
    }
}

impl FaultAction {
    fn injected_error(&self) -> Option<GraphError> {
        if let Some(throttle) = &self.throttle {
            return Some(GraphError::new(throttle.code.unwrap_or(code::RATE_LIMIT)));
        }
        let error = self.error.as_ref()?;
        let mut graph_error = GraphError::new(error.code);
        if let Some(status) = error.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            graph_error = graph_error.status(status);
        }
        if let Some(details) = &error.details {
            graph_error = graph_error.details(details);
        }
        Some(graph_error)
    }
}

/// A recipient without the punctuation that Meta accepts in numbers.
pub fn strip_punctuation(to: &str) -> std::borrow::Cow<'_, str> {
    let punctuation = |c: char| matches!(c, '+' | '-' | '(' | ')' | ' ');
    if to.contains(punctuation) { to.replace(punctuation, "").into() } else { to.into() }
}

/// The recipient of a request before its validation.
pub fn recipient_in(body: &Value) -> Option<&str> {
    body.get("to").and_then(Value::as_str).or_else(|| body.get("recipient").and_then(Value::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(faults: &Faults, json: &str) {
        faults.arm(serde_json::from_str(json).unwrap()).unwrap();
    }

    fn text_request(to: &str) -> RequestKind<'_> {
        RequestKind::Message { to: Some(to), kind: "text" }
    }

    fn is_triggered(fault: &TriggeredFault) -> bool {
        fault.0.is_some()
    }

    #[test]
    fn fault_triggers_on_matching_requests_up_to_times() {
        let faults = Faults::default();
        arm(&faults, r#"[{"match":{"to":"+1 (650) 555"},"action":{"error":{"code":131026}},"times":2}]"#);
        assert!(!is_triggered(&faults.trigger(text_request("1651"))));
        assert!(!is_triggered(&faults.trigger(RequestKind::Probe)));
        assert_eq!((0..3).filter(|_| is_triggered(&faults.trigger(text_request("1650555")))).count(), 2);
        assert!(faults.list()[0].spent);
    }

    #[test]
    fn every_counts_matching_requests() {
        let faults = Faults::default();
        arm(&faults, r#"[{"match":{"kind":"text","every":3},"action":{"close":"before"}}]"#);
        let triggered: Vec<bool> = (0..6).map(|_| is_triggered(&faults.trigger(text_request("1")))).collect();
        assert_eq!(triggered, [false, false, true, false, false, true]);
    }

    #[test]
    fn fault_kind_separates_media_and_probes_from_messages() {
        let faults = Faults::default();
        arm(&faults, r#"[{"match":{"kind":"probe"},"action":{"error":{"code":190}}}]"#);
        assert!(is_triggered(&faults.trigger(RequestKind::Probe)));
        assert!(!is_triggered(&faults.trigger(RequestKind::Media)));
        assert!(!is_triggered(&faults.trigger(text_request("1"))));
        assert_eq!(faults.disarm(None), 1);
        assert!(!is_triggered(&faults.trigger(RequestKind::Probe)));
    }

    #[test]
    fn throttle_allows_the_burst() {
        let faults = Faults::default();
        arm(&faults, r#"[{"action":{"throttle":{"per_second":0.001,"burst":2,"code":131056}}}]"#);
        let triggered: Vec<bool> = (0..4).map(|_| is_triggered(&faults.trigger(text_request("1")))).collect();
        assert_eq!(triggered, [false, false, true, true]);
    }

    #[test]
    fn fault_with_unknown_field_is_refused() {
        let wrong = serde_json::from_str::<Vec<Fault>>(r#"[{"action":{"eror":{"code":1}}}]"#);
        assert!(wrong.unwrap_err().to_string().contains("eror"));
    }

    #[test]
    fn armed_faults_are_limited() {
        let faults = Faults::default();
        let one = || serde_json::from_str::<Fault>(r#"{"action":{"delay_ms":1}}"#).unwrap();
        assert!(faults.arm(vec![one(); MAX_FAULTS]).is_some());
        assert!(faults.arm(vec![one()]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_error_is_returned_after_the_delay() {
        let faults = Faults::default();
        arm(&faults, r#"[{"action":{"delay_ms":5000,"error":{"code":131056,"status":400}}}]"#);
        let start = Instant::now();
        let rejection =
            faults.trigger(text_request("1")).apply_before(&CancellationToken::new()).await.unwrap_err();
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(matches!(rejection, GraphRejection::Error(error) if error.code == 131_056));
    }
}
