//! Ends the link between a device and its account: tells WhatsApp, if it can be reached, and deletes the keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use relevo_domain::InstanceId;
use relevo_provider::{ConnectionEvent, LinkEvent, Provider};

/// Time to connect. Only a connected device can be unlinked at WhatsApp.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Time to unlink the device at WhatsApp and to delete its keys.
const UNLINK_TIMEOUT: Duration = Duration::from_secs(30);

/// A device to unlink. Its actor has been stopped.
pub(super) struct Unlink {
    pub instance: InstanceId,
    /// The client, not connected yet.
    pub client: Arc<dyn Provider>,
    /// The device is linked to an account.
    pub paired: bool,
}

impl Unlink {
    /// Ends the link, also at WhatsApp if it can be reached. Returns `true` if the device's keys are deleted.
    pub async fn run(self) -> bool {
        let Some(device) = self.client.linked() else { return true };
        let (inbox, mut events) = mpsc::channel(1);
        if self.paired {
            device.connect(inbox);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, wait_until_connected(&mut events)).await;
            if !connected.unwrap_or(false) {
                tracing::warn!(instance = %self.instance, "device not unlinked at WhatsApp, no connection; remove the device on the phone");
            }
        }
        let unlink = tokio::time::timeout(UNLINK_TIMEOUT, device.unlink());
        tokio::pin!(unlink);
        let unlinked = loop {
            tokio::select! {
                unlinked = &mut unlink => break unlinked,
                // Messages that arrive now are not acknowledged, so WhatsApp keeps them.
                Some(_) = events.recv() => {}
            }
        };
        match unlinked {
            Ok(Ok(())) => true,
            Ok(Err(failure)) => {
                tracing::error!(instance = %self.instance, %failure, "device unlink failed; retrying later");
                false
            }
            Err(_) => {
                tracing::error!(instance = %self.instance, "device unlink timed out; retrying later");
                false
            }
        }
    }
}

/// Returns `false` if the client will not connect.
async fn wait_until_connected(events: &mut mpsc::Receiver<ConnectionEvent>) -> bool {
    while let Some(event) = events.recv().await {
        match event {
            ConnectionEvent::Link(LinkEvent::Connected(_)) => return true,
            // The device is not linked, or WhatsApp rejects it.
            ConnectionEvent::Link(
                LinkEvent::QrCode { .. } | LinkEvent::QrCodesExhausted | LinkEvent::Ended(_),
            ) => {
                return false;
            }
            _ => {}
        }
    }
    false
}
