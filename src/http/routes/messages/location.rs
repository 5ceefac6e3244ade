//! `POST …/messages/location`.

use axum::extract::State;
use axum::response::Response;

use super::envelope::{self, send_request};
use super::submit::{SendResponses, SubmitRequest, non_empty};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::{AppState, json};
use relevo_domain::{Content, Location};

send_request! {
    /// A location.
    pub struct LocationMessage<'a> {
        /// A number in international format, a JID, or a user id. Also read: `to`, `jid`, `chat_jid`, `number`.
        phone,
        /// Degrees, -90 to 90.
        #[schema(example = 4.711)]
        latitude: f64,
        /// Degrees, -180 to 180.
        #[schema(example = -74.0721)]
        longitude: f64,
        name: Option<String>,
        address: Option<String>,
    }
}

/// Sends a location.
#[utoipa::path(post, path = "/instances/{id}/messages/location", tag = "messages",
    request_body = LocationMessage, params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_location(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let parse = || {
        let mut request: LocationMessage<'_> = json::parse(&body)?;
        let envelope = request.envelope(state.recipients())?;
        let content = Content::Location(Location {
            latitude: request.latitude,
            longitude: request.longitude,
            name: non_empty(request.name),
            address: non_empty(request.address),
        });
        Ok(envelope::draft(envelope, content)?)
    };
    SubmitRequest::new(&state, &instance, &sending, "location", &body).submit(parse).await
}
