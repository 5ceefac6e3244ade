//! The capabilities of providers, on which the behaviour of an instance depends.

use super::ProviderKind;

/// How the clients of a provider behave. Constant per provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The client keeps a connection and is paired with a phone. Without it, each request is independent, and the state
    /// of the account is known from the last request only.
    pub keeps_connection: bool,
    /// WhatsApp recognises a message that is sent again under the same id, so an attempt with an unknown outcome can be
    /// repeated without duplicating the message.
    pub deduplicates_resends: bool,
    /// WhatsApp limits the rate of messages to one recipient (the pair rate limit).
    pub limits_pair_rate: bool,
}

impl Capabilities {
    /// Those of Meta's Graph API.
    pub const CLOUD_API: Self =
        Self { keeps_connection: false, deduplicates_resends: false, limits_pair_rate: true };

    /// Those of WhatsApp Web.
    pub const LINKED_DEVICE: Self =
        Self { keeps_connection: true, deduplicates_resends: true, limits_pair_rate: false };
}

impl ProviderKind {
    /// The capabilities of this provider's clients.
    pub const fn capabilities(self) -> Capabilities {
        match self {
            ProviderKind::CloudApi => Capabilities::CLOUD_API,
            ProviderKind::LinkedDevice => Capabilities::LINKED_DEVICE,
        }
    }
}
