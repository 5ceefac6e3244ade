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

use crate::errors::{GraphError, Refusal, code};
use crate::faults::{self, Strike, Subject};
use crate::graph;
use crate::ids::Direction;
use crate::journal::{Entry, Outcome};
use crate::state::Shared;
use crate::timeline::Course;
use crate::validate::{self, Addressee, Context, Outgoing, Request};
use crate::webhooks::Tracked;
use relevo_domain::Timestamp;

#[derive(Serialize)]
struct Answer<'a> {
    messaging_product: &'static str,
    contacts: [Contact<'a>; 1],
    messages: [Message<'a>; 1],
}

#[derive(Serialize)]
struct Contact<'a> {
    input: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wa_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_status: Option<&'static str>,
}

pub async fn post(
    State(shared): State<Arc<Shared>>,
    Path((version, number)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    shared.stats.received.add(1);
    let value: Option<Value> = serde_json::from_slice(&body).ok();
    let arrival = Arrival::new(&shared, &number, &body, value.as_ref());
    graph::enter(&shared, &version, &number, &headers).map_err(|error| arrival.refuse(error))?;
    let Some(value) = &value else {
        let error = GraphError::new(code::PARAMETER).details("The request body is not valid JSON.");
        return Err(arrival.refuse(error));
    };
    let strike = shared.faults.strike(arrival.subject());
    strike.before(&shared.closing).await.map_err(|refusal| arrival.interrupt(refusal))?;
    let answer = match arrival.check(value).map_err(|error| arrival.refuse(error))? {
        Request::Read => arrival.read(&strike),
        Request::Send(outgoing) => arrival.accept(&outgoing, &strike),
    };
    strike.after(&shared.closing).await?;
    Ok(answer)
}

/// A request on its way to an outcome. Every way ends in the journal.
struct Arrival<'a> {
    shared: &'a Arc<Shared>,
    at: Timestamp,
    number: &'a str,
    body: &'a [u8],
    /// What it says of itself, before it was checked.
    to: Option<Box<str>>,
    kind: &'a str,
    is_read: bool,
    callback_data: Option<&'a str>,
}

impl<'a> Arrival<'a> {
    fn new(shared: &'a Arc<Shared>, number: &'a str, body: &'a [u8], value: Option<&'a Value>) -> Self {
        let text = |key: &str| value.and_then(|value| value.get(key)).and_then(Value::as_str);
        let is_read = value.is_some_and(|value| value.get("status").is_some());
        Self {
            shared,
            at: shared.clock.now(),
            number,
            body,
            to: value.and_then(faults::recipient_of).map(|to| faults::plain(to).into()),
            kind: if is_read { "read" } else { text("type").unwrap_or("text") },
            is_read,
            callback_data: text("biz_opaque_callback_data"),
        }
    }

    fn subject(&self) -> Subject<'_> {
        if self.is_read {
            Subject::Read
        } else {
            Subject::Message { to: self.to.as_deref(), kind: self.kind }
        }
    }

    fn check(&self, value: &'a Value) -> Result<Request<'a>, GraphError> {
        let shared = self.shared;
        let media = |id: &str| shared.media.mime_type(id, self.number, shared.clock.now());
        let context = Context { own_number: &shared.options.display_phone_number, media: &media };
        let request = validate::request(value, &context)?;
        if matches!(request, Request::Send(_)) && !shared.throughput.admit(self.number, Instant::now()) {
            return Err(GraphError::new(code::RATE_LIMIT)
                .details("Message failed to send because there were too many messages sent from this phone number in a short period of time."));
        }
        Ok(request)
    }

    fn write(&self, outcome: Outcome, wamid: Option<&str>, answered: bool) {
        self.shared.journal.write(Entry {
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

    fn refuse(&self, error: GraphError) -> Refusal {
        self.shared.stats.refuse(error.code);
        self.write(Outcome::Refused(error.code), None, true);
        error.into()
    }

    /// A fault came in between.
    fn interrupt(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Graph(error) => self.refuse(error),
            Refusal::HangUp => {
                self.shared.stats.dropped.add(1);
                self.write(Outcome::Dropped, None, false);
                Refusal::HangUp
            }
        }
    }

    fn read(&self, strike: &Strike) -> Response {
        self.shared.stats.reads.add(1);
        self.write(Outcome::Accepted, None, strike.answers());
        Json(json!({ "success": true })).into_response()
    }

    fn accept(&self, outgoing: &Outgoing<'_>, strike: &Strike) -> Response {
        let shared = self.shared;
        let addressee = &outgoing.addressee;
        let wamid = shared.ids.wamid(addressee.id(), Direction::Outbound);
        shared.stats.accepted.add(1);
        self.write(Outcome::Accepted, Some(&wamid), strike.answers());
        let (wa_id, user_id) = match addressee {
            Addressee::Phone(id) | Addressee::Group(id) => (Some(id.as_str()), None),
            Addressee::User(id) => (None, Some(id.as_str())),
        };
        let is_template = outgoing.kind == "template";
        let answer = Answer {
            messaging_product: "whatsapp",
            contacts: [Contact { input: outgoing.input, wa_id, user_id }],
            messages: [Message { id: &wamid, message_status: is_template.then_some("accepted") }],
        };
        let response = Json(answer).into_response();
        if !strike.drops_statuses() && shared.courier.has_receiver() {
            self.track(wamid, outgoing, strike);
        }
        response
    }

    fn track(&self, wamid: String, outgoing: &Outgoing<'_>, strike: &Strike) {
        let failure = strike.fail_status();
        let course = match (&failure, outgoing.kind) {
            (Some(_), _) => Course::Fails,
            (None, "reaction") => Course::SentOnly,
            (None, _) => Course::Whole,
        };
        self.shared.courier.track(Tracked {
            wamid,
            phone_number_id: self.number.into(),
            addressee: outgoing.addressee.clone(),
            callback_data: outgoing.callback_data.map(Into::into),
            is_template: outgoing.kind == "template",
            course,
            failure,
            generation: self.shared.courier.generation(),
        });
    }
}
