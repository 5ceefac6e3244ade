//! What every request passes before its route: the rules of HTTP about `Host`, the place of its connection, and the share
//! of a proxy's client.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use relevo_domain::{ErrorKind, ValidationError};

use super::api::auth::PeerAddress;
use super::connection::{AtLimit, Connection, ForwardedRequest};
use super::error::ApiError;
use super::{AppState, body};

/// When a client without a place may try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Middleware: rejects a request that breaks the rules of HTTP or finds no place.
pub(super) async fn check_request(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let forwarded = match admit(&state, &request) {
        Ok(forwarded) => forwarded,
        Err(error) => {
            body::discard(request, state.options.json_body_limit);
            let has_no_place = error.status() == StatusCode::SERVICE_UNAVAILABLE;
            let mut response = error.into_response();
            if has_no_place {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return response;
        }
    };
    let response = next.run(request).await;
    drop(forwarded);
    response
}

/// Whether the request may be served. A request of a proxy's client counts against the client until it is answered.
fn admit(state: &AppState, request: &Request) -> Result<Option<ForwardedRequest>, ApiError> {
    let connection = request.extensions().get::<Connection>();
    let serves_every_route = connection.is_none_or(Connection::begin_request);
    check_host(request)?;
    let Some(connection) = connection else { return Ok(None) };
    if !serves_every_route && !is_served_in_reserve(request.uri().path()) {
        connection.count_unserved();
        let details = "as many requests are in progress as http.max_connections permits; try again";
        return Err(ApiError::new(ErrorKind::Unavailable, details).retry_after(RETRY_DELAY));
    }
    let Some(PeerAddress(peer)) = request.extensions().get::<PeerAddress>() else { return Ok(None) };
    let client = state.options.trusted_proxies.forwarded_client(peer.ip(), request.headers());
    let Some(client) = client else { return Ok(None) };
    connection.begin_forwarded(client).map_err(|AtLimit| {
        tracing::debug!(%client, "client of a proxy has its share of requests; answered with 429");
        let details =
            "this address has as many requests in progress as http.max_connections_per_peer permits";
        ApiError::new(ErrorKind::Throttled(RETRY_DELAY), details)
    })
}

/// The probes, and Meta's webhooks: what must be answered while key holders use every place.
fn is_served_in_reserve(path: &str) -> bool {
    let is_instance_webhook = || path.starts_with("/instances/") && path.ends_with("/cloud-webhook");
    matches!(path, "/health" | "/health/live" | "/health/ready" | "/api/health" | "/webhook")
        || is_instance_webhook()
}

/// RFC 9112 §3.2: a request of HTTP/1.1 has one valid `Host`, and no request has two.
fn check_host(request: &Request) -> Result<(), ValidationError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let reason = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() < Version::HTTP_11 => return Ok(()),
        (None, _) => "is missing; HTTP/1.1 requires it",
        (Some(_), Some(_)) => "is given more than once",
        (Some(host), None) if is_valid_host(host) => return Ok(()),
        (Some(_), None) => "must be a host name or address, and its port",
    };
    Err(ValidationError::new("Host", reason))
}

fn is_valid_host(host: &HeaderValue) -> bool {
    let host = host.as_bytes();
    host.is_empty() || (!host.contains(&b'@') && Authority::try_from(host).is_ok())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn check(version: Version, hosts: &[&str]) -> Result<(), ValidationError> {
        let mut request = Request::builder().version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check_host(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn request_has_one_valid_host() {
        for host in ["", "a", "relevo_1:8080", "127.0.0.1:80", "[::1]:8080", "EXAMPLE.com", "xn--a.example"] {
            assert!(check(Version::HTTP_11, &[host]).is_ok(), "{host}");
        }
        for hosts in [&[][..], &["a", "a"], &["a", "b"], &["a, b"], &["user@a"], &["a/b"], &["a b"]] {
            assert_eq!(check(Version::HTTP_11, hosts).unwrap_err().field, "Host", "{hosts:?}");
        }
        assert!(check(Version::HTTP_10, &[]).is_ok());
        assert!(check(Version::HTTP_10, &["a", "b"]).is_err());
    }

    #[test]
    fn reserve_serves_probes_and_webhooks() {
        for path in ["/health", "/health/ready", "/api/health", "/webhook", "/instances/shop/cloud-webhook"] {
            assert!(is_served_in_reserve(path), "{path}");
        }
        for path in ["/", "/instances", "/webhook/kept", "/instances/shop/webhook", "/openapi.json"] {
            assert!(!is_served_in_reserve(path), "{path}");
        }
    }
}
