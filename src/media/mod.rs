//! Media of inbound messages: where it is at WhatsApp, and a bounded copy of it on the disk.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::{InstanceNumber, ProviderMessageId, Timestamp};
use crate::store::{self, Error, Key, Space, Tx};

/// Where the media of a message is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// WhatsApp's id of the media.
    pub media_id: String,
    /// For example `image/jpeg`.
    pub mime: String,
    /// SHA-256 of the bytes, as WhatsApp gives it.
    pub sha256: Option<String>,
    pub file_name: Option<String>,
    pub at: Timestamp,
}

/// Writes down where a message's media is, in the commit that takes the message in.
pub fn note(
    tx: &mut Tx,
    instance: InstanceNumber,
    message: &ProviderMessageId,
    note: &Note,
) -> Result<(), Error> {
    let digest: [u8; 32] = Sha256::digest(message.as_str()).into();
    let short = digest.first_chunk::<12>().copied().unwrap_or_default();
    tx.put(Key::new(Space::InboundMedia).u32(instance.get()).bytes(&short), store::encode(note)?)
}
