//! The one way out: HTTP to addresses that users name.
//!
//! What it promises: a URL that a user gives (media, webhook, Graph base URL) leads to a public address or is
//! refused. The guard runs where the connection is made, on the addresses that are then connected to, so that a
//! name that changes its answer between check and use gains nothing. Requests are made through
//! [`Egress::request`] alone, so that no room can forget the guard; no redirect is followed and no proxy of the
//! environment is used behind its back.

mod fetch;
mod guard;
mod ip_ranges;

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, redirect};
use url::Url;

use relevo_domain::ErrorKind;

pub use fetch::{FetchResponse, read_bounded, root_cause};
use guard::Guard;

/// Idle connections kept for each host, for a burst of as many workers.
const IDLE_PER_HOST: usize = 64;

/// How long a connection is kept idle. Short, because a request on a connection that the server is just closing
/// has an unknown outcome.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// How the node reaches others.
#[derive(Debug, Clone)]
pub struct Options {
    /// Permit loopback, private, link-local and other special addresses. For tests, `dev` and closed networks.
    pub allow_private: bool,
    /// Longest wait for a TCP and TLS handshake.
    pub connect_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_private: false, connect_timeout: Duration::from_secs(10) }
    }
}

/// Why a URL is refused, or why nothing usable came back from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("URLs that begin with {0}: are not supported; use http or https")]
    Scheme(String),
    #[error("a user name or password in the URL is not supported; remove it")]
    Credentials,
    #[error("the URL names no host")]
    NoHost,
    #[error(
        "the host {host} leads to {ip}, {class} address; only public addresses may be reached, unless \
         egress.allow_private = true"
    )]
    Refused { host: String, ip: IpAddr, class: &'static str },
    #[error("the host {host} cannot be resolved: {cause}")]
    Unresolved { host: String, cause: String },
    #[error("the host {host} cannot be reached: {cause}")]
    Unreachable { host: String, cause: String },
    #[error("{host} answered {status} instead of the content")]
    Status { host: String, status: u16 },
    #[error("{host} redirects more than {limit} times, or to nowhere")]
    Redirects { host: String, limit: usize },
    #[error("the content is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("TLS could not be set up: {0}; are the system's CA certificates installed?")]
    Tls(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Scheme(_)
            | Error::Credentials
            | Error::NoHost
            | Error::Refused { .. }
            | Error::Status { .. }
            | Error::Redirects { .. } => ErrorKind::Invalid,
            // Whether a name is wrong or its server is down cannot be told: the caller may come back.
            Error::Unresolved { .. } | Error::Unreachable { .. } => ErrorKind::Unavailable,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::Tls(_) => ErrorKind::Internal,
        }
    }

    /// Whether the guard refused the URL, rather than the network failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Scheme(_) | Error::Credentials | Error::NoHost | Error::Refused { .. })
    }

    /// What the guard had against a request that failed inside the client, if it was the guard.
    pub fn find_in(error: &reqwest::Error) -> Option<&Error> {
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(found) = cause.downcast_ref::<Error>() {
                return Some(found);
            }
            source = cause.source();
        }
        None
    }
}

/// The guarded HTTP client. Cheap to clone; connections are pooled.
#[derive(Debug, Clone)]
pub struct Egress {
    client: Client,
    guard: Guard,
}

impl Egress {
    /// Fails when the system has no CA certificates.
    pub fn new(options: &Options) -> Result<Self, Error> {
        Self::with_guard(Guard::new(options.allow_private), options.connect_timeout)
    }

    fn with_guard(guard: Guard, connect_timeout: Duration) -> Result<Self, Error> {
        // The first caller in the process wins; every caller installs the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("relevo/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard.clone())
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|cause| Error::Tls(root_cause(&cause)))?;
        Ok(Self { client, guard })
    }

    /// Resolves the URL's host and refuses it unless every address may be connected to. For answering the person
    /// who gave the URL; a request is guarded without it.
    pub async fn check(&self, url: &Url) -> Result<(), Error> {
        if let Some(name) = self.guard.check_url(url)? {
            self.guard.resolve(name).await?;
        }
        Ok(())
    }

    /// A request to a URL that passes the guard. A name is resolved and judged when the request connects: such a
    /// refusal is a [`reqwest::Error`] with the reason [`within`](Error::within). No redirect is followed. The
    /// caller bounds its duration.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, Error> {
        self.guard.check_url(url)?;
        Ok(self.client.request(method, url.clone()))
    }
}
