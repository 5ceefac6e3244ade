//! Two more ways to authorise requests to `/api`, for clients of the documented service, which required no key. Both
//! are off by default.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::header::{FORWARDED, HOST, ORIGIN, VIA};
use axum::http::{HeaderMap, HeaderName};

use crate::http::{AppState, api};

/// The query parameter that may carry the key.
const API_KEY_PARAMETER: &str = "api_key";

/// The peer address of the connection.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct PeerAddress(pub SocketAddr);

/// Headers that proxies add: a request that a proxy forwarded does not come from this machine.
const PROXY_HEADERS: [HeaderName; 5] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// Whether a request without a key in its headers is authorised.
pub(in crate::http) fn is_authorized(state: &AppState, request: &Request) -> bool {
    if !api::is_application_path(request.uri().path()) {
        return false;
    }
    let options = &state.options;
    (options.query_key && has_valid_query_key(state, request.uri().query()))
        || (options.open_api_on_loopback && is_local_request(request))
}

fn has_valid_query_key(state: &AppState, query: Option<&str>) -> bool {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut keys = pairs.filter(|(name, key)| name == API_KEY_PARAMETER && !key.is_empty());
    keys.any(|(_, key)| state.keyring.matches(key.as_bytes()))
}

/// Whether a local process made the request: not forwarded by a proxy, and not made by a web page in a local browser,
/// which may come from any site.
fn is_local_request(request: &Request) -> bool {
    let peer = request.extensions().get::<PeerAddress>();
    peer.is_some_and(|PeerAddress(address)| address.ip().to_canonical().is_loopback())
        && is_direct_request(request.headers())
}

fn is_direct_request(headers: &HeaderMap) -> bool {
    let by_page = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
    let forwarded = PROXY_HEADERS.iter().any(|name| headers.contains_key(name));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    !by_page && !forwarded && host.is_some_and(is_loopback_host)
}

/// Prevents DNS rebinding: a page whose host name resolves to loopback sends that name.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_host_is_recognised() {
        for host in ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.0.0.9:80", "[::1]", "[::1]:8080"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com:80", "192.168.1.2:80", "127.0.0.1.nip.io"] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn proxied_or_browser_request_is_not_local() {
        let direct = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "localhost".parse().unwrap());
            headers.insert(name, value.parse().unwrap());
            is_direct_request(&headers)
        };
        assert!(direct("accept", "*/*"));
        for (name, value) in [
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("via", "1.1 proxy"),
            ("x-real-ip", "1.2.3.4"),
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("host", "evil.example"),
        ] {
            assert!(!direct(name, value), "{name}");
        }
    }
}
