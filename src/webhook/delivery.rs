//! One delivery attempt: body, headers, and the outcome of the response.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use reqwest::{Method, Response};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::events::Envelope;
use relevo_clock::Clock;
use relevo_domain::{InstanceId, InstanceNumber, Timestamp};
use relevo_egress::{self as egress, Egress, read_bounded, root_cause};
use relevo_metrics::Metrics;

use super::endpoint::{EndpointId, EndpointRuntime};
use super::retry::DeliveryOutcome;

/// The header `User-Agent`.
const AGENT: &str = concat!("relevo-webhook/", env!("CARGO_PKG_VERSION"));

/// Bytes that are read of a response body: enough to reuse the connection, and to quote in errors.
const MAX_RESPONSE_BYTES: usize = 16 << 10;

/// Timeout for the body of a response. The outcome depends on the status only.
const RESPONSE_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum length of an excerpt of a response or an error, in characters.
const MAX_EXCERPT_CHARS: usize = 240;

/// The body of a delivery, in the form of the documented gateway (gateway-architecture.md §3.2).
#[derive(Serialize)]
struct DeliveryBody<'a> {
    instance_id: &'a InstanceId,
    event: &'a str,
    /// Unix seconds of the event.
    timestamp: u64,
    data: &'a Value,
}

/// The body of every attempt to deliver an event.
pub(super) fn encode_body(name: &InstanceId, envelope: &Envelope) -> Result<Vec<u8>, serde_json::Error> {
    let event = &envelope.event;
    let body = DeliveryBody {
        instance_id: name,
        event: event.kind.as_str(),
        timestamp: event.at.seconds(),
        data: &event.data,
    };
    serde_json::to_vec(&body)
}

/// The value of `webhook-id`: the same on every attempt, and unique among all events, endpoints and nodes. It contains no
/// dot, as Standard Webhooks requires ("Signature scheme").
pub(super) fn webhook_id(endpoint: EndpointId, instance: InstanceNumber, envelope: &Envelope) -> String {
    let endpoint = endpoint.to_string();
    let hex = endpoint.strip_prefix("ep_").unwrap_or(&endpoint);
    let (instance, sequence) = (instance.get(), envelope.sequence);
    match envelope.missing() {
        None => format!("evt_{hex}_{instance}_{sequence}"),
        // A gap has the sequence of an event that may have been attempted before.
        Some(missing) => format!("gap_{hex}_{instance}_{sequence}_{missing}"),
    }
}

/// Sends deliveries.
#[derive(Clone)]
pub(super) struct Deliverer {
    pub egress: Egress,
    pub clock: Clock,
    pub metrics: Metrics,
    /// Timeout from the connection to the status of the response.
    pub timeout: Duration,
}

impl Deliverer {
    /// Makes one attempt to deliver an event, and records its metrics.
    pub async fn deliver(
        &self,
        to: &EndpointRuntime,
        instance: InstanceNumber,
        name: &InstanceId,
        envelope: &Envelope,
    ) -> DeliveryOutcome {
        let started = Instant::now();
        let outcome = self.attempt(to, instance, name, envelope).await;
        let label = match outcome {
            DeliveryOutcome::Delivered => "delivered",
            DeliveryOutcome::Refused { .. } => "refused",
            DeliveryOutcome::Gone { .. } | DeliveryOutcome::Failed { .. } => "failed",
        };
        self.metrics.record_delivery(label, started.elapsed());
        outcome
    }

    async fn attempt(
        &self,
        to: &EndpointRuntime,
        instance: InstanceNumber,
        name: &InstanceId,
        envelope: &Envelope,
    ) -> DeliveryOutcome {
        let body = match encode_body(name, envelope) {
            Ok(body) => body,
            Err(cause) => {
                return DeliveryOutcome::failed(format!("the event cannot be encoded as JSON: {cause}"));
            }
        };
        let request = match self.egress.request(Method::POST, &to.endpoint.url) {
            Ok(request) => request,
            Err(refused) => return DeliveryOutcome::failed(excerpt(&refused.to_string())),
        };
        let (id, now) = (webhook_id(to.id, instance, envelope), self.clock.now().seconds());
        let mut request = request
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", &id)
            .header("webhook-timestamp", now);
        if let Some(signer) = &to.signer {
            request = request
                .header("webhook-signature", signer.sign_message(&id, now, &body))
                .header("x-webhook-signature", signer.sign_body(&body));
        }
        match tokio::time::timeout(self.timeout, request.body(body).send()).await {
            Ok(Ok(response)) => self.outcome_of_response(response).await,
            Ok(Err(cause)) => DeliveryOutcome::failed(match egress::Error::find_in(&cause) {
                Some(refused) => excerpt(&refused.to_string()),
                None => excerpt(&format!("the receiver cannot be reached: {}", root_cause(&cause))),
            }),
            Err(_) => {
                DeliveryOutcome::failed(format!("the receiver did not answer within {:?}", self.timeout))
            }
        }
    }

    async fn outcome_of_response(&self, response: Response) -> DeliveryOutcome {
        let status = response.status();
        let retry_after = retry_after(response.headers(), self.clock.now());
        let read =
            tokio::time::timeout(RESPONSE_BODY_TIMEOUT, read_bounded(response, MAX_RESPONSE_BYTES)).await;
        let text = match read {
            Ok(Ok(bytes)) if !status.is_success() => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        };
        let cause = excerpt(format!("the receiver answered {status}: {text}").trim_end_matches([':', ' ']));
        DeliveryOutcome::from_status(status.as_u16(), cause, retry_after)
    }
}

/// The delay of the header `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let moment = Timestamp(u64::try_from(date.as_millisecond()).unwrap_or(0));
    Some(moment.since(now))
}

/// The beginning of a foreign text, on one line.
fn excerpt(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut quoted: String = text.chars().take(MAX_EXCERPT_CHARS).map(clean).collect();
    if text.chars().nth(MAX_EXCERPT_CHARS).is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::events::Event;
    use relevo_domain::EventKind;

    /// The two webhooks of gateway-architecture.md §3.2, as the event log holds their `data`.
    #[test]
    fn bodies_match_the_documentation() {
        let name: InstanceId = "your_instance_id".parse().unwrap();
        let correlation = "b7e7a8c8-f3b1-4f6e-a5b5-ae6f2f2f8a4e";
        let sent =
            json!({ "status": "sent", "correlation_id": correlation, "message_id": "1A2B3C4D5E6F7G8H" });
        let failed = json!({
            "status": "failed",
            "correlation_id": correlation,
            "error": "Recipient is not a valid WhatsApp user"
        });
        let documented = [
            r#"{
              "event": "message_ack",
              "instance_id": "your_instance_id",
              "timestamp": 1678886400,
              "data": {
                "status": "sent",
                "correlation_id": "b7e7a8c8-f3b1-4f6e-a5b5-ae6f2f2f8a4e",
                "message_id": "1A2B3C4D5E6F7G8H"
              }
            }"#,
            r#"{
              "event": "message_ack",
              "instance_id": "your_instance_id",
              "timestamp": 1678886400,
              "data": {
                "status": "failed",
                "correlation_id": "b7e7a8c8-f3b1-4f6e-a5b5-ae6f2f2f8a4e",
                "error": "Recipient is not a valid WhatsApp user"
              }
            }"#,
        ];
        for (data, documented) in [sent, failed].into_iter().zip(documented) {
            let event = Event { kind: EventKind::MessageAck, at: Timestamp(1_678_886_400_999), data };
            let written = encode_body(&name, &Envelope { sequence: 1, event }).unwrap();
            assert_eq!(
                serde_json::from_slice::<Value>(&written).unwrap(),
                serde_json::from_str::<Value>(documented).unwrap()
            );
            assert!(written.starts_with(
                br#"{"instance_id":"your_instance_id","event":"message_ack","timestamp":1678886400,"data":{"#
            ));
        }
    }

    #[test]
    fn webhook_id_names_endpoint_instance_and_event() {
        let endpoint = EndpointId::from_bytes(*b"0123456789abcdef");
        let id = |kind, data| {
            let event = Event { kind, at: Timestamp(0), data };
            webhook_id(endpoint, InstanceNumber::FIRST, &Envelope { sequence: 42, event })
        };
        assert_eq!(id(EventKind::Message, json!({})), "evt_30313233343536373839616263646566_1_42");
        let gap = id(EventKind::Gap, json!({ "from": 41, "to": 42, "missing": 2 }));
        assert_eq!(gap, "gap_30313233343536373839616263646566_1_42_2");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp(1_445_412_480_000 - 30_000);
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-5"), None);
    }

    #[test]
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(excerpt("a\r\nb\tc"), "a  b c");
        assert_eq!(excerpt(&"ñ".repeat(1000)).chars().count(), MAX_EXCERPT_CHARS + 1);
    }
}
