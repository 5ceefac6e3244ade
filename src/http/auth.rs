//! Who may call. There is one key; it is compared by digest, in constant time.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::Secret;

use super::error::ApiError;
use super::{AppState, api_door, body};

/// The header that carries the key, beside `Authorization`.
const API_KEY: &str = "x-api-key";

/// The digest of the key that opens the API; without one, everything is open.
pub(super) struct Keyring(Option<[u8; 32]>);

impl Keyring {
    pub fn new(key: Option<&Secret>) -> Self {
        Self(key.map(|key| digest(key.expose().as_bytes())))
    }

    /// Whether one of the keys that a request presents is ours: `X-API-Key: <key>`,
    /// `Authorization: Bearer <key>` or `Authorization: <key>`.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(ours) = &self.0 else { return true };
        let plain = headers.get(API_KEY).map(|value| value.as_bytes());
        let authorization = headers.get(AUTHORIZATION).map(|value| bearer(value.as_bytes()));
        let mut presented = [plain, authorization].into_iter().flatten().filter(|key| !key.is_empty());
        presented.any(|key| bool::from(digest(key).ct_eq(ours)))
    }

    /// Whether a key that came by another way is ours.
    pub fn is_ours(&self, key: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|ours| bool::from(digest(key).ct_eq(ours)))
    }
}

/// The key in an `Authorization` header, with or without its scheme.
fn bearer(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked(b"bearer ".len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
        _ => value,
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lets a request through to its route, or answers 401.
pub(super) async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if state.keyring.admits(request.headers()) || api_door::admits(&state, &request) {
        return next.run(request).await;
    }
    body::discard(request, state.options.json_body_limit);
    ApiError::unauthorized().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(keyring: &Keyring, name: &'static str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        keyring.admits(&headers)
    }

    #[test]
    fn every_documented_way_to_present_the_key_works() {
        let keyring = Keyring::new(Some(&Secret::new("k-1")));
        for (name, value) in [
            ("x-api-key", "k-1"),
            ("authorization", "Bearer k-1"),
            ("authorization", "bearer  k-1 "),
            ("authorization", "k-1"),
        ] {
            assert!(admits(&keyring, name, value), "{name}: {value}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
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
            assert!(!admits(&keyring, name, value), "{name}: {value}");
        }
        assert!(!keyring.admits(&HeaderMap::new()));
    }

    #[test]
    fn an_empty_key_opens_nothing_and_no_key_opens_everything() {
        assert!(!admits(&Keyring::new(Some(&Secret::new(""))), "x-api-key", ""));
        assert!(Keyring::new(None).admits(&HeaderMap::new()));
    }
}
