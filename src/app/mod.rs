//! The composition root: what is started, in which order, and how it ends.
//!
//! Start: data folder, store, egress, the judge with the queue, the instances, the webhooks, the relay, the HTTP front
//! end. Stop, in reverse: the front end takes nothing new and finishes its answers, instances, webhooks and relay
//! finish what is in flight, the store commits what it was given and closes. Whatever a deadline cuts short is on the disk and is judged on the next
//! start.

mod dev;
mod garbage_collector;
mod gauges;
mod node;

use tokio_util::sync::CancellationToken;

use crate::config::{self, Settings};
use relevo_clock::Clock;
use relevo_egress as egress;
use relevo_sandbox as sandbox;
use relevo_store as store;

pub use node::Node;

/// Why the node could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    ApiKey(#[from] config::ApiKeyError),
    #[error(transparent)]
    Egress(#[from] egress::Error),
    #[error(transparent)]
    Relay(#[from] crate::relay::Error),
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    #[error("cannot listen on {address}: {cause}")]
    Listen { address: std::net::SocketAddr, cause: std::io::Error },
    #[error("a part of the node could not start: {0}")]
    Start(String),
    #[error("the instance named by the environment could not be set up: {0}")]
    Instance(#[from] crate::instance::Error),
    #[error(transparent)]
    Bulk(#[from] crate::bulk::Error),
    #[error(
        "a part that the node cannot do without has failed: {0}; start it again: what was accepted is kept"
    )]
    ComponentFailed(String),
}

/// `EX_SOFTWARE` of `sysexits.h`.
const SOFTWARE: u8 = 70;
/// `EX_CANTCREAT`: the data folder or the address cannot be had.
const CANNOT_CREATE: u8 = 73;
/// `EX_TEMPFAIL`: another process has it.
const IN_USE: u8 = 75;

impl Error {
    /// The exit code of the process, as `sysexits.h` counts them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Store(store::Error::InUse { .. }) => IN_USE,
            Error::Store(store::Error::Io { .. }) | Error::Listen { .. } | Error::ApiKey(_) => CANNOT_CREATE,
            Error::Sandbox(sandbox::Error::Listen { .. }) => CANNOT_CREATE,
            _ => SOFTWARE,
        }
    }
}

/// Runs the node until `shutdown` is cancelled, then drains it.
pub async fn serve(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let node = Node::start(settings, Clock::system()).await?;
    if let Some(key) = node.new_api_key() {
        announce(&format!(
            "API key (generated now, kept in the data folder, not shown again): {}",
            key.expose()
        ));
    }
    node.run(shutdown).await
}

/// Runs the node, the sandbox and one instance on it.
pub async fn dev(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    Box::pin(dev::run(settings, shutdown)).await
}

/// Runs the sandbox alone, at `settings.sandbox_listen`; in builds that have one, a WhatsApp Web beside it.
pub async fn sandbox(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let options = sandbox::Options { listen: settings.sandbox_listen, ..sandbox::Options::default() };
    let sandbox = sandbox::Sandbox::bind(options, Clock::system()).await?;
    announce(&format!("The sandbox speaks the Graph API at http://{}", sandbox.local_addr()));
    #[cfg(feature = "linked-sandbox")]
    let web = dev::linked::start_web_sandbox().await?;
    #[cfg(feature = "linked-sandbox")]
    announce(&format!("and WhatsApp Web at {}", web.url()));
    sandbox.serve(shutdown).await;
    Ok(())
}

/// For the person at the terminal; a closed terminal is no reason to stop.
fn announce(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
