//! Identifiers in the shapes that Meta gives them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Media ids begin with these digits, so that a forgotten one is not taken for a phone number id.
const MEDIA_PREFIX: &str = "4077";

/// Makes ids that are unique within this sandbox and, by a random part, among sandboxes.
#[derive(Debug)]
pub struct IdGenerator {
    run_id: u32,
    next: AtomicU64,
}

/// Who wrote the message that a wamid names.
#[derive(Debug, Clone, Copy)]
pub enum WamidDirection {
    Outbound,
    Inbound,
}

impl IdGenerator {
    pub fn new(run_id: u32) -> Self {
        Self { run_id, next: AtomicU64::new(1) }
    }

    fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// `wamid.` and the base64 of a record that holds the other side's id and a unique part, as real ones do.
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

    pub fn media_id(&self) -> String {
        format!("{MEDIA_PREFIX}{:04}{:08}", self.run_id % 10_000, self.next_number())
    }
}

/// Whether an id has the shape of those that [`Ids::media`] makes, known or not.
pub fn is_media_id(id: &str) -> bool {
    id.len() >= 16 && id.starts_with(MEDIA_PREFIX) && id.bytes().all(|b| b.is_ascii_digit())
}

/// The business-scoped user id of a phone number: always the same one for the same number.
pub fn user_id(wa_id: &str) -> String {
    format!("US.{:020}", hash64(wa_id))
}

/// A 64-bit digest that is the same in every run.
pub fn hash64(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A `fbtrace_id`.
pub fn trace_id() -> String {
    format!("A{}", URL_SAFE_NO_PAD.encode(rand::random::<u128>().to_be_bytes()))
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
