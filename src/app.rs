//! The composition root.

use tokio_util::sync::CancellationToken;

use crate::config::Settings;

/// Why the node could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

impl Error {
    /// The exit code of the process, as `sysexits.h` counts them.
    pub fn exit_code(&self) -> u8 {
        match *self {}
    }
}

/// Runs the node until `shutdown` is cancelled, then drains it.
pub async fn serve(_settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    shutdown.cancelled().await;
    Ok(())
}

/// Runs the node, the sandbox and one instance on it.
pub async fn dev(_settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    shutdown.cancelled().await;
    Ok(())
}

/// Runs the sandbox alone, at `settings.sandbox_listen`.
pub async fn sandbox(_settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    shutdown.cancelled().await;
    Ok(())
}
