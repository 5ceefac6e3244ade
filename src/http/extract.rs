//! The extractors of handlers. Each describes itself for the OpenAPI document.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};
use uuid::Uuid;

use crate::queue::IdempotencyKey;
use crate::webhook::EndpointId;
use relevo_domain::{ErrorKind, InstanceId, ValidationError};

use super::AppState;
use super::body::{self, ReceivedBody};
use super::error::ApiError;
use super::parameter;

/// Names the instance on routes without one in their path.
pub(super) const INSTANCE_ID_HEADER: &str = "X-Instance-Id";
const ASYNC_HEADER: &str = "X-Async";
const IDEMPOTENCY_KEY_HEADER: &str = "Idempotency-Key";
const MAX_KEY_LENGTH: usize = 255;

/// The instance of a request: from the path, otherwise from `X-Instance-Id`, otherwise the node's default. It need
/// not exist.
pub(super) struct TargetInstance(pub InstanceId);

impl FromRequestParts<AppState> for TargetInstance {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        if let Some(name) = path_parameter(parts, "id").await? {
            return parse_target(&name);
        }
        if let Some(name) = instance_header(&parts.headers) {
            return parse_target(&name);
        }
        let default = state.options.default_instance.clone().ok_or_else(|| {
            let help =
                "this node has no default_instance; name one with X-Instance-Id, or use /instances/{id}/…";
            ApiError::new(ErrorKind::NotFound, help)
        })?;
        Ok(Self(default))
    }
}

impl IntoParams for TargetInstance {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path("id", "The instance's name.")]
    }
}

/// The instance of a link: from `X-Instance-Id`, otherwise from `instance_id` in the query (for clients that cannot
/// send headers), otherwise the node's default. It need not exist.
pub(super) struct LinkTargetInstance(pub InstanceId);

impl FromRequestParts<AppState> for LinkTargetInstance {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Named {
            instance_id: Option<String>,
        }
        let QueryParams(Named { instance_id }) = QueryParams::from_request_parts(parts, state).await?;
        let TargetInstance(id) = match instance_id.filter(|_| !parts.headers.contains_key(INSTANCE_ID_HEADER))
        {
            Some(name) => parse_target(&name)?,
            None => TargetInstance::from_request_parts(parts, state).await?,
        };
        Ok(Self(id))
    }
}

impl IntoParams for LinkTargetInstance {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            instance_id_parameter(),
            parameter::query("instance_id", "The same, for links; the header wins."),
        ]
    }
}

/// The value of `X-Instance-Id`.
pub(super) fn instance_header(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(INSTANCE_ID_HEADER)?;
    Some(String::from_utf8_lossy(name.as_bytes()).into_owned())
}

/// An invalid name is answered like the name of an instance that does not exist.
fn parse_target(name: &str) -> Result<TargetInstance, ApiError> {
    name.parse().map(TargetInstance).map_err(|_| ApiError::unknown_instance(name))
}

/// The `message_id` of a path, percent-decoded.
pub(super) struct MessageIdPath(pub String);

impl FromRequestParts<AppState> for MessageIdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self(path_parameter(parts, "message_id").await?.unwrap_or_default()))
    }
}

impl IntoParams for MessageIdPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path(
            "message_id",
            "The node's id (`msg_…`), the `correlation_id`, or WhatsApp's id once it is known.",
        )]
    }
}

/// The `task_id` of a path, percent-decoded.
pub(super) struct TaskIdPath(pub String);

impl FromRequestParts<AppState> for TaskIdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self(path_parameter(parts, "task_id").await?.unwrap_or_default()))
    }
}

impl IntoParams for TaskIdPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path("task_id", "The `task_id` of the answer that queued it.")]
    }
}

/// The `media_id` of a path, percent-decoded.
pub(super) struct MediaIdPath(pub String);

impl FromRequestParts<AppState> for MediaIdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self(path_parameter(parts, "media_id").await?.unwrap_or_default()))
    }
}

impl IntoParams for MediaIdPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path("media_id", "WhatsApp's id of the file.")]
    }
}

/// The `endpoint_id` of a path. It need not exist.
pub(super) struct EndpointIdPath(pub EndpointId);

impl FromRequestParts<AppState> for EndpointIdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let name = path_parameter(parts, "endpoint_id").await?.unwrap_or_default();
        let unknown = |wrong: ValidationError| ApiError::new(ErrorKind::NotFound, wrong.reason);
        name.parse().map(Self).map_err(unknown)
    }
}

impl IntoParams for EndpointIdPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path("endpoint_id", "The endpoint's id (`ep_…`).")]
    }
}

/// The event that a path names by its `instance_id` and `sequence`. It need not exist.
pub(super) struct EventPath {
    pub instance: InstanceId,
    pub sequence: u64,
}

impl FromRequestParts<AppState> for EventPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let name = path_parameter(parts, "instance_id").await?.unwrap_or_default();
        let TargetInstance(instance) = parse_target(&name)?;
        let sequence = path_parameter(parts, "sequence").await?.unwrap_or_default();
        let sequence = sequence.parse().map_err(|_| ValidationError::new("sequence", "must be a number"))?;
        Ok(Self { instance, sequence })
    }
}

impl IntoParams for EventPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            parameter::path("instance_id", "The instance's name."),
            parameter::path("sequence", "The event's place in the log of its instance."),
        ]
    }
}

/// The `job_id` of a path. It need not exist.
pub(super) struct JobIdPath(pub Uuid);

impl FromRequestParts<AppState> for JobIdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let name = path_parameter(parts, "job_id").await?.unwrap_or_default();
        let unknown = |_| ApiError::new(ErrorKind::NotFound, format!("Job no encontrado: {name}"));
        Uuid::try_parse(&name).map(Self).map_err(unknown)
    }
}

impl IntoParams for JobIdPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path("job_id", "The job's id.")]
    }
}

/// The query of a URL.
pub(super) struct QueryParams<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let wrong = |rejection: QueryRejection| ValidationError::new("query", rejection.body_text()).into();
        Query::try_from_uri(&parts.uri).map(|Query(query)| Self(query)).map_err(wrong)
    }
}

async fn path_parameter(parts: &mut Parts, name: &str) -> Result<Option<String>, ApiError> {
    let wrong = |_| ApiError::from(ValidationError::new("path", "is not valid UTF-8 when percent-decoded"));
    let parameters = RawPathParams::from_request_parts(parts, &()).await.map_err(wrong)?;
    Ok(parameters.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned()))
}

/// The headers of a send: how to answer, and the idempotency key.
#[derive(Debug)]
pub(super) struct SendOptions {
    /// `X-Async`: answer when the message is queued, not when it is sent.
    pub asynchronous: bool,
    key_digest: Option<[u8; 16]>,
}

impl FromRequestParts<AppState> for SendOptions {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self::from_headers(&parts.headers)?)
    }
}

impl IntoParams for SendOptions {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            parameter::header(ASYNC_HEADER, "`true`: answer 202 as soon as the message is queued, durably."),
            idempotency_key_parameter(),
        ]
    }
}

impl SendOptions {
    /// Reads the options from the headers.
    ///
    /// # Errors
    ///
    /// The idempotency key is invalid.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, ValidationError> {
        let asynchronous = headers.get(ASYNC_HEADER).is_some_and(|value| {
            let value = value.as_bytes().trim_ascii();
            value == b"1" || value.eq_ignore_ascii_case(b"true")
        });
        let key = headers.get(IDEMPOTENCY_KEY_HEADER).map(|value| {
            let key = value.as_bytes();
            let printable = key.iter().all(|byte| (b' '..=b'~').contains(byte));
            if key.is_empty() || key.len() > MAX_KEY_LENGTH || !printable {
                let reason = format!("must have 1 to {MAX_KEY_LENGTH} printable ASCII characters");
                return Err(ValidationError::new(IDEMPOTENCY_KEY_HEADER, reason));
            }
            Ok(digest(&[key]))
        });
        Ok(Self { asynchronous, key_digest: key.transpose()? })
    }

    /// The digest of the caller's `Idempotency-Key`.
    pub fn key_digest(&self) -> Option<[u8; 16]> {
        self.key_digest
    }

    /// Identifies a repetition of this request, if the caller gave an `Idempotency-Key`. Whether the caller waits for
    /// the outcome is not part of it.
    pub fn idempotency_key(&self, kind: &str, body: &[u8]) -> Option<IdempotencyKey> {
        let key = self.key_digest?;
        Some(IdempotencyKey { key, body: digest(&[kind.as_bytes(), b"\0", body]) })
    }
}

/// The `X-Instance-Id` header in the OpenAPI document.
pub(super) fn instance_id_parameter() -> Parameter {
    parameter::header(INSTANCE_ID_HEADER, "The instance, where it is not the node's default_instance.")
}

/// The `Idempotency-Key` header in the OpenAPI document.
pub(super) fn idempotency_key_parameter() -> Parameter {
    parameter::header(
        IDEMPOTENCY_KEY_HEADER,
        "1 to 255 characters, chosen by the caller. A repetition with the same key and body is answered like the \
         first request and sends nothing.",
    )
}

/// The first 16 bytes of the SHA-256 of all parts.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// The body of an ordinary JSON request.
pub(super) struct JsonBody(pub Bytes);

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let received = body::receive_body(request, state.options.json_body_limit, state).await?;
        Ok(Self(received.bytes))
    }
}

/// The body of a request that may carry media as base64.
pub(super) struct MediaBody(pub ReceivedBody);

impl FromRequest<AppState> for MediaBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(body::receive_body(request, state.options.media_body_limit, state).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_options(name: &'static str, value: &str) -> Result<SendOptions, ValidationError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        SendOptions::from_headers(&headers)
    }

    #[test]
    fn async_header_accepts_true_and_one() {
        for (value, asynchronous) in
            [("true", true), ("True", true), ("1", true), ("false", false), ("0", false), ("", false)]
        {
            assert_eq!(send_options(ASYNC_HEADER, value).unwrap().asynchronous, asynchronous, "{value}");
        }
        assert!(!SendOptions::from_headers(&HeaderMap::new()).unwrap().asynchronous);
    }

    #[test]
    fn idempotency_key_identifies_key_kind_and_body() {
        let keyed = |key: &str, kind: &str, body: &[u8]| {
            send_options(IDEMPOTENCY_KEY_HEADER, key).unwrap().idempotency_key(kind, body)
        };
        let first = keyed("k", "text", b"{}").unwrap();
        assert_eq!(first.key.as_slice(), &Sha256::digest(b"k")[..16]);
        assert_eq!(keyed("k", "text", b"{}").unwrap(), first);
        assert_eq!(keyed("k", "image", b"{}").unwrap().key, first.key);
        assert_ne!(keyed("k", "image", b"{}").unwrap().body, first.body);
        assert_ne!(keyed("k", "text", b"{ }").unwrap().body, first.body);
        assert_ne!(keyed("l", "text", b"{}").unwrap().key, first.key);
        assert_eq!(
            SendOptions::from_headers(&HeaderMap::new()).unwrap().idempotency_key("text", b"{}"),
            None
        );
    }

    #[test]
    fn idempotency_key_must_be_short_and_printable() {
        assert!(send_options(IDEMPOTENCY_KEY_HEADER, &"k".repeat(255)).is_ok());
        for key in ["", "ñ", &"k".repeat(256)] {
            assert_eq!(send_options(IDEMPOTENCY_KEY_HEADER, key).unwrap_err().field, "Idempotency-Key");
        }
    }
}
