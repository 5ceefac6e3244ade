//! What handlers take from a request.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::queue::IdempotencyKey;
use crate::webhook::EndpointId;
use relevo_domain::{ErrorKind, InstanceId, Invalid};

use super::AppState;
use super::body::{self, Arrived};
use super::error::ApiError;

/// Names the instance on routes that have none in their path.
const INSTANCE_ID: &str = "x-instance-id";
const ASYNC: &str = "x-async";
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LONGEST_KEY: usize = 255;

/// The instance that a request is about: the one in its path, else the one in `X-Instance-Id`, else the node's
/// default. It need not exist.
pub(super) struct Target(pub InstanceId);

impl FromRequestParts<AppState> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        if let Some(name) = path_parameter(parts, "id").await? {
            return named(&name);
        }
        if let Some(name) = parts.headers.get(INSTANCE_ID) {
            return named(&String::from_utf8_lossy(name.as_bytes()));
        }
        let default = state.options.default_instance.clone().ok_or_else(|| {
            let help =
                "this node has no default_instance; name one with X-Instance-Id, or use /instances/{id}/…";
            ApiError::new(ErrorKind::NotFound, help)
        })?;
        Ok(Self(default))
    }
}

/// The instance that a link is about: the one in `X-Instance-Id`, else `instance_id` in its query, for who cannot send
/// headers, else the node's default. It need not exist.
pub(super) struct TargetOfLink(pub InstanceId);

impl FromRequestParts<AppState> for TargetOfLink {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Named {
            instance_id: Option<String>,
        }
        let QueryOf(Named { instance_id }) = QueryOf::from_request_parts(parts, state).await?;
        let Target(id) = match instance_id.filter(|_| !parts.headers.contains_key(INSTANCE_ID)) {
            Some(name) => named(&name)?,
            None => Target::from_request_parts(parts, state).await?,
        };
        Ok(Self(id))
    }
}

/// A name that no instance can have is a name that no instance has.
fn named(name: &str) -> Result<Target, ApiError> {
    name.parse().map(Target).map_err(|_| ApiError::unknown_instance(name))
}

/// The `message_id` of a path, percent-decoded.
pub(super) struct MessageName(pub String);

impl FromRequestParts<AppState> for MessageName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self(path_parameter(parts, "message_id").await?.unwrap_or_default()))
    }
}

/// The `task_id` of a path, percent-decoded.
pub(super) struct TaskName(pub String);

impl FromRequestParts<AppState> for TaskName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self(path_parameter(parts, "task_id").await?.unwrap_or_default()))
    }
}

/// The `media_id` of a path, percent-decoded.
pub(super) struct MediaName(pub String);

impl FromRequestParts<AppState> for MediaName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self(path_parameter(parts, "media_id").await?.unwrap_or_default()))
    }
}

/// The `endpoint_id` of a path. It need not exist.
pub(super) struct EndpointName(pub EndpointId);

impl FromRequestParts<AppState> for EndpointName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let name = path_parameter(parts, "endpoint_id").await?.unwrap_or_default();
        let unknown = |wrong: Invalid| ApiError::new(ErrorKind::NotFound, wrong.reason);
        name.parse().map(Self).map_err(unknown)
    }
}

/// The event that a path names by its `instance_id` and `sequence`. It need not exist.
pub(super) struct EventName {
    pub instance: InstanceId,
    pub sequence: u64,
}

impl FromRequestParts<AppState> for EventName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let name = path_parameter(parts, "instance_id").await?.unwrap_or_default();
        let Target(instance) = named(&name)?;
        let sequence = path_parameter(parts, "sequence").await?.unwrap_or_default();
        let sequence = sequence.parse().map_err(|_| Invalid::new("sequence", "must be a number"))?;
        Ok(Self { instance, sequence })
    }
}

/// The `job_id` of a path. It need not exist.
pub(super) struct JobName(pub Uuid);

impl FromRequestParts<AppState> for JobName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let name = path_parameter(parts, "job_id").await?.unwrap_or_default();
        let unknown = |_| ApiError::new(ErrorKind::NotFound, format!("Job no encontrado: {name}"));
        Uuid::try_parse(&name).map(Self).map_err(unknown)
    }
}

/// What the query of a URL says.
pub(super) struct QueryOf<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let wrong = |refused: QueryRejection| Invalid::new("query", refused.body_text()).into();
        Query::try_from_uri(&parts.uri).map(|Query(query)| Self(query)).map_err(wrong)
    }
}

async fn path_parameter(parts: &mut Parts, name: &str) -> Result<Option<String>, ApiError> {
    let wrong = |_| ApiError::from(Invalid::new("path", "is not valid UTF-8 when percent-decoded"));
    let parameters = RawPathParams::from_request_parts(parts, &()).await.map_err(wrong)?;
    Ok(parameters.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned()))
}

/// How a message is to be sent, as the headers say.
#[derive(Debug)]
pub(super) struct Sending {
    /// `X-Async`: answer when it is queued, not when it is sent.
    pub asynchronous: bool,
    key: Option<[u8; 16]>,
}

impl FromRequestParts<AppState> for Sending {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self::of(&parts.headers)?)
    }
}

impl Sending {
    pub fn of(headers: &HeaderMap) -> Result<Self, Invalid> {
        let asynchronous = headers.get(ASYNC).is_some_and(|value| {
            let value = value.as_bytes().trim_ascii();
            value == b"1" || value.eq_ignore_ascii_case(b"true")
        });
        let key = headers.get(IDEMPOTENCY_KEY).map(|value| {
            let key = value.as_bytes();
            let printable = key.iter().all(|byte| (b' '..=b'~').contains(byte));
            if key.is_empty() || key.len() > LONGEST_KEY || !printable {
                let reason = format!("must have 1 to {LONGEST_KEY} printable ASCII characters");
                return Err(Invalid::new("Idempotency-Key", reason));
            }
            Ok(digest(&[key]))
        });
        Ok(Self { asynchronous, key: key.transpose()? })
    }

    /// The caller's key for "this is the same request", as its digest.
    pub fn key(&self) -> Option<[u8; 16]> {
        self.key
    }

    /// What makes a repetition of this request recognisable, when the caller asked for that. Whether it waits for
    /// the outcome is not part of it.
    pub fn idempotency(&self, kind: &str, body: &[u8]) -> Option<IdempotencyKey> {
        let key = self.key?;
        Some(IdempotencyKey { key, body: digest(&[kind.as_bytes(), b"\0", body]) })
    }
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
        let arrived = body::receive(request, state.options.json_body_limit, state).await?;
        Ok(Self(arrived.bytes))
    }
}

/// The body of a request that may carry media as base64.
pub(super) struct MediaBody(pub Arrived);

impl FromRequest<AppState> for MediaBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(body::receive(request, state.options.media_body_limit, state).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(name: &'static str, value: &str) -> Result<Sending, Invalid> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Sending::of(&headers)
    }

    #[test]
    fn async_is_what_says_so() {
        for (value, asynchronous) in
            [("true", true), ("True", true), ("1", true), ("false", false), ("0", false), ("", false)]
        {
            assert_eq!(sending(ASYNC, value).unwrap().asynchronous, asynchronous, "{value}");
        }
        assert!(!Sending::of(&HeaderMap::new()).unwrap().asynchronous);
    }

    #[test]
    fn a_key_stands_for_a_request() {
        let keyed = |key: &str, kind: &str, body: &[u8]| {
            sending(IDEMPOTENCY_KEY, key).unwrap().idempotency(kind, body)
        };
        let first = keyed("k", "text", b"{}").unwrap();
        assert_eq!(first.key.as_slice(), &Sha256::digest(b"k")[..16]);
        assert_eq!(keyed("k", "text", b"{}").unwrap(), first);
        assert_eq!(keyed("k", "image", b"{}").unwrap().key, first.key);
        assert_ne!(keyed("k", "image", b"{}").unwrap().body, first.body);
        assert_ne!(keyed("k", "text", b"{ }").unwrap().body, first.body);
        assert_ne!(keyed("l", "text", b"{}").unwrap().key, first.key);
        assert_eq!(Sending::of(&HeaderMap::new()).unwrap().idempotency("text", b"{}"), None);
    }

    #[test]
    fn a_key_is_short_and_printable() {
        assert!(sending(IDEMPOTENCY_KEY, &"k".repeat(255)).is_ok());
        for key in ["", "ñ", &"k".repeat(256)] {
            assert_eq!(sending(IDEMPOTENCY_KEY, key).unwrap_err().field, "Idempotency-Key");
        }
    }
}
