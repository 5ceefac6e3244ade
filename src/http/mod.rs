//! Skeleton.
use std::net::SocketAddr;
use std::time::Duration;

use crate::domain::{InstanceId, Secret};

/// What the HTTP front end needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// The key that callers present. `None` only when authentication was switched off explicitly.
    pub api_key: Option<Secret>,
    /// The instance of routes that name none. It may not exist yet.
    pub default_instance: Option<InstanceId>,
    /// Largest body of ordinary JSON requests, in bytes.
    pub json_body_limit: usize,
    /// Largest body of requests that may carry base64 media, in bytes.
    pub media_body_limit: usize,
    /// Requests served at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a request may take to arrive.
    pub read_timeout: Duration,
    /// Origins that browsers may call from; `*` is any.
    pub cors_origins: Vec<String>,
}
