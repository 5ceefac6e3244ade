//! Which media a message had.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use relevo_domain::{InstanceNumber, ProviderMessageId, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

/// Where the media of a message is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediaLocation {
    /// WhatsApp's id of the media.
    pub media_id: String,
    /// For example `image/jpeg`.
    pub mime: String,
    /// SHA-256 of the bytes, as WhatsApp gives it.
    pub sha256: Option<String>,
    pub file_name: Option<String>,
    pub at: Timestamp,
}

/// The longest media id that is believed, in bytes. Meta's have 15 to 17 digits; those of linked devices say where the
/// file is and how it is read.
const MAX_ID_BYTES: usize = 1024;

/// The longest text beside it that is kept, in characters: file systems know no longer names.
const MAX_TEXT_CHARS: usize = 255;

/// Notes that one commit forgets.
const PAGE_SIZE: usize = 500;

const BY_MESSAGE: u8 = b'm';
const BY_TIME: u8 = b't';

/// Writes down where a message's media is, in the commit that takes the message in. What cannot be a note of
/// WhatsApp's is left out rather than refused: the message is worth more than its media.
pub fn record_location(
    tx: &mut Tx,
    instance: InstanceNumber,
    message: &ProviderMessageId,
    note: &MediaLocation,
) -> Result<(), Error> {
    if note.media_id.len() > MAX_ID_BYTES {
        return Ok(());
    }
    let short = |text: &str| text.chars().take(MAX_TEXT_CHARS).collect::<String>();
    let kept = MediaLocation {
        mime: short(&note.mime),
        sha256: note.sha256.as_deref().map(short),
        file_name: note.file_name.as_deref().map(short),
        ..note.clone()
    };
    let name = name_of(instance, message);
    let key = by_message(&name);
    if let Some(earlier) = tx.get(&key)? {
        let earlier: MediaLocation = store::decode(&earlier)?;
        tx.delete(by_time(earlier.at).bytes(&name))?;
    }
    tx.put(key, store::encode(&kept)?)?;
    tx.put(by_time(note.at).bytes(&name), Vec::new())
}

/// The note of a message, if there is one.
pub(super) fn find(
    store: &Store,
    instance: InstanceNumber,
    message: &ProviderMessageId,
) -> Result<Option<MediaLocation>, Error> {
    let bytes = store.get(&by_message(&name_of(instance, message)))?;
    bytes.map(|bytes| store::decode(&bytes)).transpose()
}

/// Forgets a page of the notes from before `before`. `true` when there may be more.
pub(super) fn expire(tx: &mut Tx, before: Timestamp) -> Result<bool, Error> {
    let (start, end) = (Key::new(Space::InboundMedia).u8(BY_TIME), by_time(before));
    let page: Vec<_> = {
        let entries = tx.range(&start, &end).take(PAGE_SIZE);
        entries.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?
    };
    let full = page.len() == PAGE_SIZE;
    for key in page {
        // Space, kind and time come first; the name is the rest.
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

/// The instance, and a hash of the message's id, which is long and only ever looked up whole.
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
        // Delivered once more, with another moment.
        write("wamid.1", 300);
        assert_eq!(store.entries().len(), 4);
        store.write(|tx| expire(tx, Timestamp(300))).unwrap();
        assert_eq!(store.entries().len(), 2, "the newer note of wamid.1 stays");
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
        let wrong = MediaLocation { media_id: "1".repeat(MAX_ID_BYTES + 1), ..location_at(1) };
        let message = "wamid.1".parse().unwrap();
        store.write(|tx| record_location(tx, InstanceNumber::FIRST, &message, &wrong)).unwrap();
        assert_eq!(store.entries(), []);
    }
}
