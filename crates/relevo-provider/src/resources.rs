//! What the node hands to every provider: shared resources, and options of linked devices.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use url::Url;

use relevo_clock::{Clock, Random};
use relevo_egress::Egress;
use relevo_store::{Blobs, Store};

use super::LoginGate;

/// Resources that all providers of a node share. Cheap to clone.
#[derive(Clone)]
pub struct ProviderResources {
    /// The guarded HTTP client.
    pub egress: Egress,
    /// The files of accepted media.
    pub blobs: Blobs,
    /// The store for a provider's own records.
    pub store: Store,
    pub clock: Clock,
    pub random: Random,
    pub linked: LinkedOptions,
    pub login_gate: LoginGate,
    pub direct_client: DirectClient,
}

/// The HTTP client of all linked devices without a proxy. They share it because its set of trusted certificates takes
/// more memory than an idle device.
pub type DirectClient = Arc<OnceLock<reqwest::Client>>;

/// Defaults of linked devices; an instance's own configuration takes precedence.
#[derive(Debug, Clone)]
pub struct LinkedOptions {
    /// The WebSocket endpoint of WhatsApp Web.
    pub server: Url,
    /// The version of WhatsApp Web to report; requested from WhatsApp when unset.
    pub version: Option<(u32, u32, u32)>,
    /// The name that the phone shows in its list of linked devices.
    pub device_name: String,
    /// Strangers whom an instance may write to within a day; 0 disables the limit.
    pub first_contacts_per_day: u32,
    /// The outcome of a message is unknown when WhatsApp does not acknowledge it within this time.
    pub ack_timeout: Duration,
    /// Maximum delay between two connection attempts.
    pub reconnect_max_delay: Duration,
}

impl Default for LinkedOptions {
    #[expect(clippy::expect_used, reason = "a constant that a test parses")]
    fn default() -> Self {
        Self {
            server: Url::parse("wss://web.whatsapp.com/ws/chat").expect("the address of WhatsApp Web"),
            version: None,
            device_name: "relevo".to_owned(),
            first_contacts_per_day: 100,
            ack_timeout: Duration::from_secs(20),
            reconnect_max_delay: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_server_is_whatsapp_web() {
        assert_eq!(LinkedOptions::default().server.scheme(), "wss");
    }
}
