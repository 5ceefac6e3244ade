//! The composition root: starts the node's components in order and stops them in reverse.
//!
//! Start: data folder, store, egress, retry supervisor with the queue, accounts, instances, webhooks, bulk jobs, relay,
//! HTTP front end. Stop: the front end accepts no new requests and completes its answers; bulk jobs, instances, queue,
//! webhooks and relay finish work in flight, until one deadline for all of them; the store commits pending transactions
//! and closes. Work that the deadline interrupts is on the disk, and the next start resumes it.

mod dev;
mod drain_schedule;
mod garbage_collector;
mod gauges;
mod handles;
mod node;
mod root_supervisor;
#[cfg(test)]
mod tests;

use tokio_util::sync::CancellationToken;

use crate::config::{self, Settings};
use relevo_clock::{Clock, Random};
use relevo_egress as egress;
use relevo_sandbox as sandbox;
use relevo_store as store;

pub use node::Node;

/// Reason why the node did not start or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder or the database cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There is no usable API key.
    #[error(transparent)]
    ApiKey(#[from] config::ApiKeyError),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Egress(#[from] egress::Error),
    /// The relay cannot be set up.
    #[error(transparent)]
    Relay(#[from] crate::relay::Error),
    /// The sandbox cannot be started.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The address is in use or not available.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The answer of the system.
        cause: std::io::Error,
    },
    /// An actor or a part of the sandbox failed while starting.
    #[error("a component of the node could not start: {0}")]
    Start(String),
    /// The instance of the environment or of `relevo dev` was refused.
    #[error("the instance named by the environment could not be set up: {0}")]
    Account(#[from] crate::accounts::Error),
    /// The bulk jobs cannot be loaded.
    #[error(transparent)]
    Bulk(#[from] crate::bulk::Error),
    /// The store or a supervisor failed while the node was running.
    #[error(
        "an essential component has failed: {0}; restart the node: accepted messages are in the data folder"
    )]
    ComponentFailed(String),
}

/// `EX_SOFTWARE` of `sysexits.h`.
const SOFTWARE: u8 = 70;
/// `EX_DATAERR`: the database is not complete.
const DATA: u8 = 65;
/// `EX_CANTCREAT`: the data folder or the address is not available.
const CANNOT_CREATE: u8 = 73;
/// `EX_TEMPFAIL`: another process uses the data folder.
const IN_USE: u8 = 75;

impl Error {
    /// The exit code of the process, from `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Store(store::Error::InUse { .. }) => IN_USE,
            Error::Store(store::Error::Incomplete { .. }) => DATA,
            Error::Store(store::Error::Io { .. }) | Error::Listen { .. } | Error::ApiKey(_) => CANNOT_CREATE,
            Error::Sandbox(sandbox::Error::Listen { .. }) => CANNOT_CREATE,
            _ => SOFTWARE,
        }
    }
}

/// Runs the node until `shutdown` is cancelled, then drains it.
///
/// # Errors
///
/// The node does not start, or an essential component fails while it runs.
pub async fn serve(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let node = Node::start(settings, Clock::system(), Random::system()).await?;
    if let Some(key) = node.new_api_key() {
        announce(&format!(
            "API key (generated now, kept in the data folder, not shown again): {}",
            key.expose()
        ));
    }
    node.run(shutdown).await
}

/// Runs a node, the sandbox and instances on it, until `shutdown` is cancelled.
///
/// # Errors
///
/// The node or the sandbox does not start, or an essential component fails.
pub async fn dev(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    Box::pin(dev::run(settings, shutdown)).await
}

/// Runs the sandbox alone, at `settings.sandbox_listen`, until `shutdown` is cancelled. Builds with the feature
/// `linked-sandbox` also start a WhatsApp Web server.
///
/// # Errors
///
/// The address cannot be bound.
pub async fn sandbox(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let options = sandbox::Options { listen: settings.sandbox_listen, ..sandbox::Options::default() };
    let sandbox = sandbox::Sandbox::bind(options, Clock::system(), Random::system()).await?;
    announce(&format!("The sandbox speaks the Graph API at http://{}", sandbox.local_addr()));
    #[cfg(feature = "linked-sandbox")]
    let web = dev::virtual_phones::start_web_sandbox().await?;
    #[cfg(feature = "linked-sandbox")]
    announce(&format!("and WhatsApp Web at {}", web.url()));
    sandbox.serve(shutdown).await;
    Ok(())
}

/// Prints for the operator at the terminal. Ignores a closed stdout.
fn announce(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
