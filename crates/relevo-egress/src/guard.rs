//! The rule that decides which URLs and addresses may be reached.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::Error;
use super::ip_ranges::special_purpose_class;

/// Returns the class of an address that must not be reached, and `None` for a permitted one.
type AddressClassifier = fn(IpAddr) -> Option<&'static str>;

/// Resolves the name of a host to its addresses.
type Lookup = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Decides which URLs and addresses may be reached.
///
/// One rule is applied twice: to the URL before a request, and, as the resolver of the HTTP client, to the addresses
/// that the client then connects to.
#[derive(Clone)]
pub(super) struct Guard {
    classify: AddressClassifier,
    lookup: Arc<Lookup>,
}

impl Guard {
    pub fn new(allow_private: bool) -> Self {
        let classify: AddressClassifier = if allow_private { |_| None } else { special_purpose_class };
        Self::with(classify, |host| Box::pin(system_lookup(host)))
    }

    pub fn with<L>(classify: AddressClassifier, lookup: L) -> Self
    where
        L: Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    {
        Self { classify, lookup: Arc::new(lookup) }
    }

    /// Checks a URL without resolving it. Returns the host's name if the host is a name, which is still to be resolved.
    pub fn check_url<'u>(&self, url: &'u Url) -> Result<Option<&'u str>, Error> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Credentials);
        }
        match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => Ok(Some(name)),
            Some(Host::Ipv4(ip)) => self.check_address(&ip.to_string(), ip.into()).map(|()| None),
            Some(Host::Ipv6(ip)) => self.check_address(&ip.to_string(), ip.into()).map(|()| None),
            _ => Err(Error::NoHost),
        }
    }

    /// Resolves a name. Fails unless every one of its addresses is permitted.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        let unresolved = |cause: String| Error::Unresolved { host: host.to_owned(), cause };
        let found = (self.lookup)(host.to_owned()).await.map_err(|cause| unresolved(cause.to_string()))?;
        if found.is_empty() {
            return Err(unresolved("it has no address".to_owned()));
        }
        for ip in &found {
            self.check_address(host, *ip)?;
        }
        Ok(found)
    }

    fn check_address(&self, host: &str, ip: IpAddr) -> Result<(), Error> {
        match (self.classify)(ip) {
            None => Ok(()),
            Some(class) => Err(Error::Refused { host: host.to_owned(), ip, class }),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses = guard.resolve(name.as_str()).await?;
            // Port 0 means the port of the URL.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

async fn system_lookup(host: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host.as_str(), 0)).await?.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn guard_resolving_to(ips: &'static [&'static str]) -> Guard {
        Guard::with(special_purpose_class, move |_| {
            Box::pin(async move { Ok(ips.iter().map(|ip| ip.parse().unwrap()).collect()) })
        })
    }

    #[test]
    fn only_plain_http_urls_with_a_host_pass() {
        let guard = Guard::new(true);
        for bad in ["ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "data:text/plain,x"]
        {
            assert!(matches!(guard.check_url(&url(bad)), Err(Error::Scheme(_))), "{bad}");
        }
        for bad in ["http://user@example.com/", "http://:pass@example.com/"] {
            assert_eq!(guard.check_url(&url(bad)), Err(Error::Credentials), "{bad}");
        }
        assert_eq!(guard.check_url(&url("https://example.com/a?b")), Ok(Some("example.com")));
        assert_eq!(guard.check_url(&url("http://127.0.0.1:8080/")), Ok(None));
    }

    #[test]
    fn every_spelling_of_an_address_is_recognised() {
        let guard = Guard::new(false);
        for (text, ip) in [
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://127.1/", "127.0.0.1"),
            ("http://127.0.0.1./", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://0x7f000001/", "127.0.0.1"),
            ("http://0x7f.0.0.1/", "127.0.0.1"),
            ("http://0177.0.0.01/", "127.0.0.1"),
            ("http://0/", "0.0.0.0"),
            ("http://%31%32%37.0.0.1/", "127.0.0.1"),
            ("http://１２７.0.0.1/", "127.0.0.1"),
            ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
            ("http://[::1]/", "::1"),
            ("http://[0:0:0:0:0:ffff:7f00:1]/", "::ffff:127.0.0.1"),
            ("http://[::ffff:169.254.169.254]/", "::ffff:169.254.169.254"),
        ] {
            match guard.check_url(&url(text)) {
                Err(Error::Refused { ip: found, .. }) => {
                    assert_eq!(found, ip.parse::<IpAddr>().unwrap(), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(guard.check_url(&url("http://8.8.8.8/")), Ok(None));
    }

    #[tokio::test]
    async fn name_with_any_private_address_is_refused() {
        assert!(guard_resolving_to(&["8.8.8.8", "2606:4700:4700::1111"]).resolve("a.example").await.is_ok());
        let refused = guard_resolving_to(&["8.8.8.8", "10.0.0.1"]).resolve("a.example").await.unwrap_err();
        let text = refused.to_string();
        for part in ["a.example", "10.0.0.1", "a private address", "egress.allow_private"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn name_without_addresses_is_unresolved() {
        let error = guard_resolving_to(&[]).resolve("a.example").await.unwrap_err();
        assert!(matches!(error, Error::Unresolved { .. }), "{error}");
    }

    #[tokio::test]
    async fn localhost_is_resolved_and_refused() {
        let error = Guard::new(false).resolve("localhost").await.unwrap_err();
        assert!(matches!(error, Error::Refused { class: "a loopback", .. }), "{error}");
    }
}
