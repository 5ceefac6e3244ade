//! The reverse proxies that the node trusts, and the clients behind them.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::admission::PeerNetwork;

/// The header in which each proxy appends the address of its own peer.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The networks of the proxies whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// The proxies with addresses in these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whose limit of connections applies to a peer. Loopback and trusted proxies have none: many clients share them.
    pub(super) fn limited_peer(&self, peer: IpAddr) -> Option<PeerNetwork> {
        let is_exempt = peer.to_canonical().is_loopback() || self.contains(peer);
        (!is_exempt).then(|| PeerNetwork::from(peer))
    }

    /// The client of a request that a trusted proxy forwarded: the last address of `X-Forwarded-For` that is not a
    /// trusted proxy's. Everything before it may be forged by that client. `None`: `peer` is no trusted proxy, or names
    /// no client.
    pub(super) fn forwarded_client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        if !self.contains(peer) {
            return None;
        }
        let values: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        let hops = values.into_iter().rev().flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
        // A hop that is no address ends the chain: what stands before it has no known sender.
        let mut addresses = hops.map_while(|hop| hop_address(hop.trim()));
        addresses.find(|address| !self.contains(*address))
    }
}

/// The address of a hop. Some proxies append the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let address = hop.parse::<IpAddr>().ok().or_else(with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(networks: &[&str]) -> TrustedProxies {
        TrustedProxies::new(networks.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn client(peer: &str, forwarded_for: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in forwarded_for {
            headers.append(FORWARDED_FOR, value.parse().unwrap());
        }
        let proxies = proxies(&["10.0.0.0/8", "2001:db8:1::/48"]);
        proxies.forwarded_client(peer.parse().unwrap(), &headers).map(|client| client.to_string())
    }

    #[test]
    fn client_is_the_last_address_that_no_trusted_proxy_has() {
        assert_eq!(client("10.0.0.1", &["192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(client("::ffff:10.0.0.1", &["192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 192.0.2.7, 10.9.9.9"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 192.0.2.7", "10.9.9.9"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(client("10.0.0.1", &["192.0.2.7:4711"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(client("2001:db8:1::5", &["[2001:db8:2::9]:1"]).as_deref(), Some("2001:db8:2::9"));
    }

    #[test]
    fn header_is_ignored_from_others_and_after_garbage() {
        assert_eq!(client("192.0.2.1", &["192.0.2.7"]), None);
        assert_eq!(client("127.0.0.1", &["192.0.2.7"]), None);
        assert_eq!(client("10.0.0.1", &[]), None);
        assert_eq!(client("10.0.0.1", &["192.0.2.7, unknown"]), None);
        assert_eq!(client("10.0.0.1", &["192.0.2.7, unknown, 10.1.1.1"]), None);
        assert_eq!(client("10.0.0.1", &["10.1.1.1"]), None);
    }

    #[test]
    fn loopback_and_proxies_have_no_limit() {
        let proxies = proxies(&["10.0.0.0/8"]);
        for exempt in ["127.0.0.1", "::1", "::ffff:127.0.0.9", "10.1.2.3", "::ffff:10.1.2.3"] {
            assert_eq!(proxies.limited_peer(exempt.parse().unwrap()), None, "{exempt}");
        }
        let limited = |address: &str| proxies.limited_peer(address.parse().unwrap());
        assert_eq!(limited("2001:db8::1"), limited("2001:db8::ffff:0:0:2"));
        assert_ne!(limited("2001:db8::1"), limited("2001:db8:0:1::1"));
        assert_eq!(limited("192.0.2.1"), limited("::ffff:192.0.2.1"));
        assert_ne!(limited("192.0.2.1"), limited("192.0.2.2"));
    }
}
