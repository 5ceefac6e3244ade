//! `POST /{version}/{phone_number_id}/messages`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::errors::{GraphError, GraphRejection, code};
use crate::faults::{self, RequestKind, TriggeredFault};
use crate::graph;
use crate::ids::WamidDirection;
use crate::journal::{JournalEntry, RequestOutcome};
use crate::state::SandboxState;
use crate::status_schedule::StatusPlan;
use crate::validate::{self, Addressee, ValidMessage, ValidRequest, ValidationContext};
use crate::webhooks::TrackedMessage;
use relevo_domain::Timestamp;

#[derive(Serialize)]
struct MessageSendResponse<'a> {
    messaging_product: &'static str,
    contacts: [ResponseContact<'a>; 1],
    messages: [ResponseMessage<'a>; 1],
}

#[derive(Serialize)]
struct ResponseContact<'a> {
    input: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wa_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ResponseMessage<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_status: Option<&'static str>,
}

/// Validates a message, records it in the journal and answers with its wamid.
///
/// # Errors
/// The request is invalid, or a fault rejects it.
pub async fn post(
    State(shared): State<Arc<SandboxState>>,
    Path((version, number)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, GraphRejection> {
    shared.stats.received.add(1);
    let value: Option<Value> = serde_json::from_slice(&body).ok();
    let request = GraphMessageRequest::new(&shared, &number, &body, value.as_ref());
    graph::check_access(&shared, &version, &number, &headers).map_err(|error| request.refuse(error))?;
    let Some(value) = &value else {
        let error = GraphError::new(code::PARAMETER).details("The request body is not valid JSON.");
        return Err(request.refuse(error));
    };
    let fault = shared.faults.trigger(request.request_kind());
    fault.apply_before(&shared.closing).await.map_err(|rejection| request.reject_by_fault(rejection))?;
    let answer = match request.check(value).map_err(|error| request.refuse(error))? {
        ValidRequest::MarkRead => request.accept_read(&fault),
        ValidRequest::Send(outgoing) => request.accept_message(&outgoing, &fault),
    };
    fault.apply_after(&shared.closing).await?;
    Ok(answer)
}

/// A request in progress. Every outcome is recorded in the journal.
struct GraphMessageRequest<'a> {
    shared: &'a Arc<SandboxState>,
    at: Timestamp,
    number: &'a str,
    body: &'a [u8],
    /// Recipient of the request before its validation.
    to: Option<Box<str>>,
    kind: &'a str,
    is_read: bool,
    callback_data: Option<&'a str>,
}

impl<'a> GraphMessageRequest<'a> {
    fn new(shared: &'a Arc<SandboxState>, number: &'a str, body: &'a [u8], value: Option<&'a Value>) -> Self {
        let text = |key: &str| value.and_then(|value| value.get(key)).and_then(Value::as_str);
        let is_read = value.is_some_and(|value| value.get("status").is_some());
        Self {
            shared,
            at: shared.clock.now(),
            number,
            body,
            to: value.and_then(faults::recipient_in).map(|to| faults::strip_punctuation(to).into()),
            kind: if is_read { "read" } else { text("type").unwrap_or("text") },
            is_read,
            callback_data: text("biz_opaque_callback_data"),
        }
    }

    fn request_kind(&self) -> RequestKind<'_> {
        if self.is_read {
            RequestKind::Read
        } else {
            RequestKind::Message { to: self.to.as_deref(), kind: self.kind }
        }
    }

    fn check(&self, value: &'a Value) -> Result<ValidRequest<'a>, GraphError> {
        let shared = self.shared;
        let media = |id: &str| shared.media.mime_type(id, self.number, shared.clock.now());
        let context = ValidationContext { own_number: &shared.options.display_phone_number, media: &media };
        let request = validate::check_request(value, &context)?;
        if matches!(request, ValidRequest::Send(_))
            && !shared.throughput.try_acquire(self.number, Instant::now())
        {
            return Err(GraphError::new(code::RATE_LIMIT)
                .details("Message failed to send because there were too many messages sent from this phone number in a short period of time."));
        }
        Ok(request)
    }

    fn record(&self, outcome: RequestOutcome, wamid: Option<&str>, answered: bool) {
        self.shared.journal.write(JournalEntry {
            at: self.at,
            phone_number_id: self.number.into(),
            to: self.to.clone(),
            kind: self.kind.into(),
            wamid: wamid.map(Into::into),
            callback_data: self.callback_data.map(Into::into),
            outcome,
            answered,
            body: String::from_utf8_lossy(self.body).into(),
        });
    }

    fn refuse(&self, error: GraphError) -> GraphRejection {
        self.shared.stats.record_refusal(error.code);
        self.record(RequestOutcome::Refused(error.code), None, true);
        error.into()
    }

    /// Records a request that a fault rejected.
    fn reject_by_fault(&self, rejection: GraphRejection) -> GraphRejection {
        match rejection {
            GraphRejection::Error(error) => self.refuse(error),
            unanswered => {
                self.shared.stats.dropped.add(1);
                self.record(RequestOutcome::Dropped, None, false);
                unanswered
            }
        }
    }

    fn accept_read(&self, fault: &TriggeredFault) -> Response {
        self.shared.stats.reads.add(1);
        self.record(RequestOutcome::Accepted, None, fault.sends_response());
        Json(json!({ "success": true })).into_response()
    }

    fn accept_message(&self, outgoing: &ValidMessage<'_>, fault: &TriggeredFault) -> Response {
        let shared = self.shared;
        let addressee = &outgoing.addressee;
        let wamid = shared.ids.wamid(addressee.id(), WamidDirection::Outbound);
        shared.stats.accepted.add(1);
        self.record(RequestOutcome::Accepted, Some(&wamid), fault.sends_response());
        let (wa_id, user_id) = match addressee {
            Addressee::Phone(id) | Addressee::Group(id) => (Some(id.as_str()), None),
            Addressee::User(id) => (None, Some(id.as_str())),
        };
        let is_template = outgoing.kind == "template";
        let answer = MessageSendResponse {
            messaging_product: "whatsapp",
            contacts: [ResponseContact { input: outgoing.input, wa_id, user_id }],
            messages: [ResponseMessage { id: &wamid, message_status: is_template.then_some("accepted") }],
        };
        let response = Json(answer).into_response();
        if !fault.drops_statuses() && shared.webhook_sender.has_receiver() {
            self.track(wamid, outgoing, fault);
        }
        response
    }

    fn track(&self, wamid: String, outgoing: &ValidMessage<'_>, fault: &TriggeredFault) {
        let failure = fault.fail_status();
        let plan = match (&failure, outgoing.kind) {
            (Some(_), _) => StatusPlan::SentThenFailed,
            (None, "reaction") => StatusPlan::SentOnly,
            (None, _) => StatusPlan::UntilRead,
        };
        self.shared.webhook_sender.track(TrackedMessage {
            wamid,
            phone_number_id: self.number.into(),
            addressee: outgoing.addressee.clone(),
            callback_data: outgoing.callback_data.map(Into::into),
            is_template: outgoing.kind == "template",
            status_plan: plan,
            failure,
            generation: self.shared.webhook_sender.generation(),
        });
    }
}
