//! The index of media: where WhatsApp has the media of a message. Entries expire by age.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use relevo_domain::{InstanceNumber, ProviderMessageId, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

/// Location of the media of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediaLocation {
    /// WhatsApp's id of the media.
    pub media_id: String,
    /// For example `image/jpeg`.
    pub mime: String,
    /// SHA-256 of the bytes, in the form of WhatsApp.
    pub sha256: Option<String>,
    /// The file name that the sender gave.
    pub file_name: Option<String>,
    /// Time of the message.
    pub at: Timestamp,
}

/// Maximum length of a media id, in bytes. Meta's have 15 to 17 digits; those of linked devices contain the address and
/// the keys of the file.
const MAX_ID_BYTES: usize = 1024;

/// Maximum length of the other texts, in characters, as for names in file systems.
const MAX_TEXT_CHARS: usize = 255;

/// Number of entries that one commit deletes.
const PAGE_SIZE: usize = 500;

const BY_MESSAGE: u8 = b'm';
const BY_TIME: u8 = b't';

/// Records the location of the media of a message, within the commit that ingests the message. An overlong media id is
/// ignored instead of refused, so that the message is not lost.
///
/// # Errors
///
/// The store cannot be read, or the record cannot be encoded.
pub fn record_location(
    tx: &mut Tx,
    instance: InstanceNumber,
    message: &ProviderMessageId,
    location: &MediaLocation,
) -> Result<(), Error> {
    if location.media_id.len() > MAX_ID_BYTES {
        return Ok(());
    }
    let short = |text: &str| text.chars().take(MAX_TEXT_CHARS).collect::<String>();
    let truncated = MediaLocation {
        mime: short(&location.mime),
        sha256: location.sha256.as_deref().map(short),
        file_name: location.file_name.as_deref().map(short),
        ..location.clone()
    };
    let name = name_of(instance, message);
    let key = by_message(&name);
    if let Some(earlier) = tx.get(&key)? {
        let earlier: MediaLocation = store::decode(&earlier)?;
        tx.delete(by_time(earlier.at).bytes(&name))?;
    }
    tx.put(key, store::encode(&truncated)?)?;
    tx.put(by_time(location.at).bytes(&name), Vec::new())
}

/// The location of the media of a message, if it is recorded.
pub(super) fn find(
    store: &Store,
    instance: InstanceNumber,
    message: &ProviderMessageId,
) -> Result<Option<MediaLocation>, Error> {
    let bytes = store.get(&by_message(&name_of(instance, message)))?;
    bytes.map(|bytes| store::decode(&bytes)).transpose()
}

/// Deletes a page of the entries from before `before`. `true` if there may be more.
pub(super) fn expire(tx: &mut Tx, before: Timestamp) -> Result<bool, Error> {
    let (start, end) = (Key::new(Space::InboundMedia).u8(BY_TIME), by_time(before));
    let page: Vec<_> = {
        let entries = tx.range(&start, &end).take(PAGE_SIZE);
        entries.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?
    };
    let full = page.len() == PAGE_SIZE;
    for key in page {
        // Space, kind and time are the first ten bytes; the name of the entry follows.
        if let Some(name) = key.get(10..) {
            tx.delete(by_message(name))?;
        }
        tx.delete(key.into())?;
    }
    Ok(full)
}

fn by_message(name: &[u8]) -> Key {
    Key::new(Space::InboundMedia).u8(BY_MESSAGE).bytes(name)
}

fn by_time(at: Timestamp) -> Key {
    Key::new(Space::InboundMedia).u8(BY_TIME).u64(at.millis())
}

/// The name of an entry: the instance, and a hash of the message id, because message ids are long and are looked up by
/// their whole text only.
fn name_of(instance: InstanceNumber, message: &ProviderMessageId) -> Vec<u8> {
    let digest: [u8; 32] = Sha256::digest(message.as_str()).into();
    let mut name = instance.get().to_be_bytes().to_vec();
    name.extend_from_slice(digest.first_chunk::<12>().map_or(&[], |short| short.as_slice()));
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_store::TestStore;

    fn location_at(at: u64) -> MediaLocation {
        MediaLocation {
            media_id: "1037543291543636".to_owned(),
            mime: "image/jpeg".to_owned(),
            sha256: None,
            file_name: Some("ñ".repeat(5000)),
            at: Timestamp(at),
        }
    }

    #[test]
    fn locations_expire_by_age_and_leave_nothing() {
        let store = TestStore::new();
        let write = |message: &str, at| {
            let message: ProviderMessageId = message.parse().unwrap();
            store.write(|tx| record_location(tx, InstanceNumber::FIRST, &message, &location_at(at))).unwrap();
        };
        write("wamid.1", 100);
        write("wamid.2", 200);
        // A repeated delivery with another time.
        write("wamid.1", 300);
        assert_eq!(store.entries().len(), 4);
        store.write(|tx| expire(tx, Timestamp(300))).unwrap();
        assert_eq!(store.entries().len(), 2, "the newer entry of wamid.1 stays");
        store.write(|tx| expire(tx, Timestamp(301))).unwrap();
        assert_eq!(store.entries(), []);
    }

    #[test]
    fn expiry_runs_in_pages() {
        let store = TestStore::new();
        store
            .write(|tx| {
                (0..PAGE_SIZE + 1).try_for_each(|n| {
                    let message = format!("wamid.{n}").parse().unwrap();
                    record_location(tx, InstanceNumber::FIRST, &message, &location_at(1))
                })
            })
            .unwrap();
        assert!(store.write(|tx| expire(tx, Timestamp(2))).unwrap());
        assert!(!store.write(|tx| expire(tx, Timestamp(2))).unwrap());
        assert_eq!(store.entries(), []);
    }

    #[test]
    fn overlong_media_id_is_not_recorded() {
        let store = TestStore::new();
        let overlong = MediaLocation { media_id: "1".repeat(MAX_ID_BYTES + 1), ..location_at(1) };
        let message = "wamid.1".parse().unwrap();
        store.write(|tx| record_location(tx, InstanceNumber::FIRST, &message, &overlong)).unwrap();
        assert_eq!(store.entries(), []);
    }
}
