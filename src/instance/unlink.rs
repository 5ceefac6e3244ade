//! The end of a link between a device and an account.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use relevo_domain::InstanceId;
use relevo_provider::{ConnectionEvent, LinkEvent, Provider};

/// Only a connected device can tell WhatsApp that it leaves. It has this long to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Telling it, and forgetting the keys, takes no longer.
const UNLINK_TIMEOUT: Duration = Duration::from_secs(30);

/// A device that is to be nobody's any more. Its actor has been stopped.
pub(super) struct Unlink {
    pub instance: InstanceId,
    /// Not yet connected.
    pub client: Arc<dyn Provider>,
    /// A phone took the device once.
    pub paired: bool,
}

impl Unlink {
    /// Ends the link, at WhatsApp as far as it can be reached. `true` when the device's keys are forgotten.
    pub async fn run(self) -> bool {
        let Some(device) = self.client.linked() else { return true };
        let (inbox, mut happenings) = mpsc::channel(1);
        if self.paired {
            device.connect(inbox);
            let connected =
                tokio::time::timeout(CONNECT_TIMEOUT, wait_until_connected(&mut happenings)).await;
            if !connected.unwrap_or(false) {
                tracing::warn!(instance = %self.instance, "WhatsApp could not be told that a device leaves; remove it on the phone as well");
            }
        }
        let unlink = tokio::time::timeout(UNLINK_TIMEOUT, device.unlink());
        tokio::pin!(unlink);
        let unlinked = loop {
            tokio::select! {
                unlinked = &mut unlink => break unlinked,
                // What is heard meanwhile is WhatsApp's to keep.
                Some(_) = happenings.recv() => {}
            }
        };
        match unlinked {
            Ok(Ok(())) => true,
            Ok(Err(failure)) => {
                tracing::error!(instance = %self.instance, %failure, "a device could not be unlinked");
                false
            }
            Err(_) => {
                tracing::error!(instance = %self.instance, "a device could not be unlinked in time");
                false
            }
        }
    }
}

/// `false` when it will not be.
async fn wait_until_connected(happenings: &mut mpsc::Receiver<ConnectionEvent>) -> bool {
    while let Some(happening) = happenings.recv().await {
        match happening {
            ConnectionEvent::Link(LinkEvent::Connected(_)) => return true,
            // Nobody's device already, or WhatsApp does not want it.
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
