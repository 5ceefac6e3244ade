//! Outgoing HTTP requests to URLs that users name, and the WebSocket handshake of clients.
//!
//! A URL that a user gives (media, webhook, Graph base URL) leads to a public address or is refused. The guard runs
//! inside the HTTP client's resolver, on the addresses that are then connected to, so that DNS rebinding between check
//! and use has no effect. All requests to such URLs are made through [`Egress::request`], so that no caller can skip
//! the guard. The client follows no redirect and uses no proxy of the environment.

mod fetch;
mod guard;
mod ip_ranges;
mod tls;
pub mod websocket;

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, redirect};
use url::Url;

use relevo_domain::ErrorKind;

pub use fetch::{FetchResponse, read_bounded, root_cause};
pub use tls::install_tls_provider;

use guard::Guard;

/// Maximum number of idle connections per host; enough for a burst of as many workers.
const IDLE_PER_HOST: usize = 64;

/// Maximum time that a connection stays idle. It is short, because a request on a connection that the server is just
/// closing has an unknown outcome.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of the guarded HTTP client.
#[derive(Debug, Clone)]
pub struct Options {
    /// Permits loopback, private, link-local and other special addresses. For tests, `dev` and closed networks.
    pub allow_private: bool,
    /// Timeout of the TCP and TLS handshake.
    pub connect_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_private: false, connect_timeout: Duration::from_secs(10) }
    }
}

/// The reason why a URL is refused, or why a request to it failed.
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
    /// The class of the error, for answers to clients of the node.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Scheme(_)
            | Error::Credentials
            | Error::NoHost
            | Error::Refused { .. }
            | Error::Status { .. }
            | Error::Redirects { .. } => ErrorKind::Invalid,
            // A wrong name and an unreachable server cannot be distinguished, so the caller may retry.
            Error::Unresolved { .. } | Error::Unreachable { .. } => ErrorKind::Unavailable,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::Tls(_) => ErrorKind::Internal,
        }
    }

    /// Whether the guard refused the URL; `false` for failures of the network.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Scheme(_) | Error::Credentials | Error::NoHost | Error::Refused { .. })
    }

    /// The guard's refusal among the causes of a request's failure, if the guard caused it.
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
    /// Builds the client.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up, for example because the system has no CA certificates.
    pub fn new(options: &Options) -> Result<Self, Error> {
        Self::with_guard(Guard::new(options.allow_private), options.connect_timeout)
    }

    fn with_guard(guard: Guard, connect_timeout: Duration) -> Result<Self, Error> {
        install_tls_provider();
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

    /// Resolves the URL's host and refuses the URL unless every address of the host is permitted. It serves to answer
    /// the user who gave the URL; a request is guarded without this check.
    ///
    /// # Errors
    ///
    /// The URL is refused, or its host cannot be resolved.
    pub async fn check(&self, url: &Url) -> Result<(), Error> {
        if let Some(name) = self.guard.check_url(url)? {
            self.guard.resolve(name).await?;
        }
        Ok(())
    }

    /// Begins a request to a URL. The guard checks the URL now, and the addresses of a name when the request connects:
    /// [`Error::find_in`] finds that refusal in the [`reqwest::Error`]. No redirect is followed. The caller bounds the
    /// duration.
    ///
    /// # Errors
    ///
    /// The guard refuses the URL.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, Error> {
        self.guard.check_url(url)?;
        Ok(self.client.request(method, url.clone()))
    }
}
