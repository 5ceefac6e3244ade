//! Two more ways into `/api`, for clients of the documented service, which asked for no key. Both are off unless
//! they are configured.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::header::{FORWARDED, HOST, ORIGIN, VIA};
use axum::http::{HeaderMap, HeaderName};

use super::{AppState, flask};

/// The query parameter that may carry the key.
const API_KEY: &str = "api_key";

/// The other end of the connection, as the accept loop saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// What proxies add: whoever stands behind one is not on this machine.
const FORWARDING: [HeaderName; 5] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// Whether a request without a key in its headers may pass.
pub(super) fn admits(state: &AppState, request: &Request) -> bool {
    if !flask::is_spoken_at(request.uri().path()) {
        return false;
    }
    let options = &state.options;
    (options.query_key && presents_key(state, request.uri().query()))
        || (options.open_api_on_loopback && is_from_here(request))
}

fn presents_key(state: &AppState, query: Option<&str>) -> bool {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut keys = pairs.filter(|(name, key)| name == API_KEY && !key.is_empty());
    keys.any(|(_, key)| state.keyring.knows(key.as_bytes()))
}

/// From a program on this machine: not forwarded by a proxy, and not made by a web page in its browser, which could
/// be anybody's.
fn is_from_here(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    peer.is_some_and(|Peer(address)| address.ip().to_canonical().is_loopback())
        && is_direct(request.headers())
}

fn is_direct(headers: &HeaderMap) -> bool {
    let by_page = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
    let forwarded = FORWARDING.iter().any(|name| headers.contains_key(name));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    !by_page && !forwarded && host.is_some_and(names_this_machine)
}

/// A page whose name was made to lead here calls under that name.
fn names_this_machine(host: &str) -> bool {
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
    fn only_loopback_names_are_names_of_this_machine() {
        for host in ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.0.0.9:80", "[::1]", "[::1]:8080"] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com:80", "192.168.1.2:80", "127.0.0.1.nip.io"] {
            assert!(!names_this_machine(host), "{host}");
        }
    }

    #[test]
    fn what_came_through_a_proxy_or_a_page_is_not_from_here() {
        let direct = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "localhost".parse().unwrap());
            headers.insert(name, value.parse().unwrap());
            is_direct(&headers)
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
