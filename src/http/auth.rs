//! Authentication. The node has one key; it is compared by digest, in constant time.

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use relevo_domain::Secret;

use super::access::Grant;
use super::connection::Connection;
use super::error::ApiError;
use super::stream::sse::accepts_event_stream;
use super::{AppState, api, body};

/// The header that carries the key, beside `Authorization`.
const API_KEY_HEADER: &str = "x-api-key";

/// The suffix of paths that answer with a page, or with a stream when `Accept` names one.
const EVENTS_SUFFIX: &str = "/events";

/// The subprotocol of the node's WebSockets, and the prefix of one that carries the key.
const PLAIN_PROTOCOL: &str = "relevo";
const KEY_PROTOCOL_PREFIX: &str = "relevo.key.";

/// The digest of the API key. `None` accepts every request.
pub(super) struct Keyring(Option<[u8; 32]>);

impl Keyring {
    /// Stores the digest of the key.
    pub fn new(key: Option<&Secret>) -> Self {
        Self(key.map(|key| digest(key.expose().as_bytes())))
    }

    /// Whether there is a key.
    fn requires_key(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a request presents the key: `X-API-Key: <key>`, `Authorization: Bearer <key>` or `Authorization:
    /// <key>`.
    pub fn authorizes(&self, headers: &HeaderMap) -> bool {
        let plain = headers.get(API_KEY_HEADER).map(|value| value.as_bytes());
        let authorization = headers.get(AUTHORIZATION).map(|value| bearer_key(value.as_bytes()));
        self.0.is_none() || [plain, authorization].into_iter().flatten().any(|key| self.matches(key))
    }

    /// Whether a request for a stream presents the key. Browsers cannot set headers on a WebSocket or an
    /// `EventSource`, so the query (`api_key` or `token`) and a subprotocol ([`KEY_PROTOCOL_PREFIX`] and the key in
    /// base64url) are accepted, too.
    fn authorizes_stream(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let query = query.unwrap_or_default().as_bytes();
        let mut in_query = url::form_urlencoded::parse(query)
            .filter(|(name, _)| matches!(name.as_ref(), "api_key" | "token"));
        let mut in_protocol = offered_protocols(headers)
            .filter_map(|name| URL_SAFE_NO_PAD.decode(name.strip_prefix(KEY_PROTOCOL_PREFIX)?).ok());
        self.authorizes(headers)
            || in_query.any(|(_, key)| self.matches(key.as_bytes()))
            || in_protocol.any(|key| self.matches(&key))
    }

    /// Whether `key` is the node's key.
    pub fn matches(&self, key: &[u8]) -> bool {
        !key.is_empty() && self.0.as_ref().is_some_and(|ours| bool::from(digest(key).ct_eq(ours)))
    }
}

/// The subprotocols that the caller of a WebSocket offers.
fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}

/// The subprotocol to select: the plain one when it is offered, so that the key is not repeated; otherwise the one
/// that carries the key, because browsers close a WebSocket when the server selects none.
pub(super) fn select_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let plain = offered_protocols(headers).find(|name| *name == PLAIN_PROTOCOL);
    let agreed =
        plain.or_else(|| offered_protocols(headers).find(|name| name.starts_with(KEY_PROTOCOL_PREFIX)));
    agreed.and_then(|name| HeaderValue::from_str(name).ok())
}

/// The key in an `Authorization` header, with or without its scheme.
fn bearer_key(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked(b"bearer ".len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
        _ => value,
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Middleware: attaches a [`Grant`] to an authorised request; answers 401 to any other.
pub(super) async fn require_key(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    if state.keyring.authorizes(request.headers()) || api::auth::is_authorized(&state, &request) {
        grant(&state, &mut request);
        return next.run(request).await;
    }
    body::discard(request, state.options.json_body_limit);
    ApiError::unauthorized().into_response()
}

/// Attaches the grant, and keeps the connection. Where no key is required, the request has proven nothing.
fn grant(state: &AppState, request: &mut Request) {
    request.extensions_mut().insert(Grant::all());
    if let Some(connection) =
        request.extensions().get::<Connection>().filter(|_| state.keyring.requires_key())
    {
        connection.prove_request();
    }
}

/// The same for routes that may stream. A request that is answered with a page must present the key in a header.
pub(super) async fn require_stream_key(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_page = request.uri().path().ends_with(EVENTS_SUFFIX) && !accepts_event_stream(request.headers());
    let query = request.uri().query();
    let admitted = match is_page {
        true => state.keyring.authorizes(request.headers()),
        false => state.keyring.authorizes_stream(request.headers(), query),
    };
    if admitted {
        grant(&state, &mut request);
        return next.run(request).await;
    }
    body::discard(request, state.options.json_body_limit);
    ApiError::unauthorized().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorizes(keyring: &Keyring, name: &'static str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        keyring.authorizes(&headers)
    }

    #[test]
    fn key_is_accepted_in_every_documented_form() {
        let keyring = Keyring::new(Some(&Secret::new("k-1")));
        for (name, value) in [
            ("x-api-key", "k-1"),
            ("authorization", "Bearer k-1"),
            ("authorization", "bearer  k-1 "),
            ("authorization", "k-1"),
        ] {
            assert!(authorizes(&keyring, name, value), "{name}: {value}");
        }
    }

    #[test]
    fn other_keys_and_headers_are_rejected() {
        let keyring = Keyring::new(Some(&Secret::new("k-1")));
        for (name, value) in [
            ("x-api-key", ""),
            ("x-api-key", "k-2"),
            ("x-api-key", "k-1x"),
            ("x-api-key", "Bearer k-1"),
            ("authorization", "Bearer "),
            ("authorization", "Basic k-1"),
            ("cookie", "k-1"),
        ] {
            assert!(!authorizes(&keyring, name, value), "{name}: {value}");
        }
        assert!(!keyring.authorizes(&HeaderMap::new()));
    }

    #[test]
    fn empty_key_rejects_all_and_no_key_accepts_all() {
        assert!(!authorizes(&Keyring::new(Some(&Secret::new(""))), "x-api-key", ""));
        assert!(Keyring::new(None).authorizes(&HeaderMap::new()));
    }

    #[test]
    fn streams_accept_the_key_in_the_query_and_in_a_subprotocol() {
        let keyring = Keyring::new(Some(&Secret::new("k&1")));
        let offers = |protocols: &str| {
            HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, protocols.parse::<HeaderValue>().unwrap())])
        };
        let none = HeaderMap::new();
        for query in ["api_key=k%261", "types=all&token=k%261", "token=other&token=k%261"] {
            assert!(keyring.authorizes_stream(&none, Some(query)), "{query}");
        }
        for query in ["", "api_key=", "api_key=k&1", "key=k%261", "api_key=k%2612"] {
            assert!(!keyring.authorizes_stream(&none, Some(query)), "{query}");
        }
        assert!(keyring.authorizes_stream(&offers("relevo, relevo.key.ayYx"), None));
        assert!(!keyring.authorizes_stream(&offers("relevo, relevo.key.ayYy, relevo.key."), None));
        assert!(
            !Keyring::new(Some(&Secret::new(""))).authorizes_stream(&offers("relevo.key."), Some("token="))
        );

        let agreed =
            |offered: &str| select_protocol(&offers(offered)).map(|name| name.to_str().unwrap().to_owned());
        assert_eq!(agreed("relevo.key.ayYx, relevo").as_deref(), Some("relevo"));
        assert_eq!(agreed("chat, relevo.key.ayYx").as_deref(), Some("relevo.key.ayYx"));
        assert_eq!(agreed("chat"), None);
    }
}
