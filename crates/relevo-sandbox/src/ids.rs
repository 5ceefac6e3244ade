//! Identifiers in Meta's formats.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Media ids begin with these digits, so that an unknown media id is not mistaken for a phone number id.
const MEDIA_PREFIX: &str = "4077";

/// Generates ids that are unique within this sandbox and, by a random part, across sandboxes.
#[derive(Debug)]
pub struct IdGenerator {
    run_id: u32,
    next: AtomicU64,
}

/// The author of a message with a wamid.
#[derive(Debug, Clone, Copy)]
pub enum WamidDirection {
    Outbound,
    Inbound,
}

impl IdGenerator {
    /// A generator with the random part `run_id`.
    pub fn new(run_id: u32) -> Self {
        Self { run_id, next: AtomicU64::new(1) }
    }

    fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// `wamid.` and the base64 of a record that contains the other side's id and a unique part, as Meta's ids do.
    pub fn wamid(&self, other_side: &str, direction: WamidDirection) -> String {
        let unique = format!("{:08X}{:010X}", self.run_id, self.next_number());
        let mut record = Vec::with_capacity(other_side.len() + unique.len() + 10);
        record.extend([0x1c, 0x18, u8::try_from(other_side.len()).unwrap_or(u8::MAX)]);
        record.extend(other_side.as_bytes());
        record.extend([0x15, 0x02, 0x00]);
        record.push(match direction {
            WamidDirection::Outbound => 0x11,
            WamidDirection::Inbound => 0x12,
        });
        record.extend([0x18, 0x12]);
        record.extend(unique.as_bytes());
        record.push(0);
        let mut wamid = String::with_capacity(96);
        wamid.push_str("wamid.");
        STANDARD.encode_string(record, &mut wamid);
        wamid
    }

    /// A new media id.
    pub fn media_id(&self) -> String {
        format!("{MEDIA_PREFIX}{:04}{:08}", self.run_id % 10_000, self.next_number())
    }
}

/// Whether an id has the format of [`IdGenerator::media_id`].
pub fn is_media_id(id: &str) -> bool {
    id.len() >= 16 && id.starts_with(MEDIA_PREFIX) && id.bytes().all(|b| b.is_ascii_digit())
}

/// The business-scoped user id of a phone number. The same number always has the same id.
pub fn user_id(wa_id: &str) -> String {
    format!("US.{:020}", hash64(wa_id))
}

/// A 64-bit hash that is the same in every run.
pub fn hash64(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A new `fbtrace_id`, unique in this process.
pub fn trace_id() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let bytes = (u128::from(number) << 64) | u128::from(hash64(&number.to_string()));
    format!("A{}", URL_SAFE_NO_PAD.encode(bytes.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wamids_are_unique_and_have_meta_format() {
        let ids = IdGenerator::new(7);
        let first = ids.wamid("16505551234", WamidDirection::Outbound);
        let second = ids.wamid("16505551234", WamidDirection::Outbound);
        assert_ne!(first, second);
        assert!(first.starts_with("wamid.HBgLMTY1MDU1NTEyMzQVAgARGBI"), "{first}");
    }

    #[test]
    fn media_ids_differ_from_phone_number_ids() {
        assert!(is_media_id(&IdGenerator::new(u32::MAX).media_id()));
        assert!(!is_media_id("106540352242922"));
    }
}
