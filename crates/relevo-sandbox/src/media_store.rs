//! Uploaded files: in memory and bounded. The oldest files are evicted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use relevo_domain::Timestamp;

/// Lifetime of an uploaded file. Source: Meta, "Media".
const UPLOAD_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Lifetime of a file that a user sent. Source: Meta, "Media".
const RECEIVED_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A stored file.
#[derive(Debug, Clone)]
pub struct StoredMedia {
    pub phone_number_id: Box<str>,
    pub mime_type: Box<str>,
    /// Hexadecimal.
    pub sha256: Box<str>,
    pub bytes: Bytes,
    pub expires: Timestamp,
}

/// Origin of a file, which determines its lifetime.
#[derive(Debug, Clone, Copy)]
pub enum MediaOrigin {
    Uploaded,
    Received,
}

impl MediaOrigin {
    /// The time after which the file expires.
    pub fn lifetime(self) -> Duration {
        match self {
            MediaOrigin::Uploaded => UPLOAD_LIFETIME,
            MediaOrigin::Received => RECEIVED_LIFETIME,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<Box<str>, StoredMedia>,
    /// Ids in order of arrival. The id of a deleted file stays until it reaches the front.
    order: VecDeque<Box<str>>,
    bytes: usize,
    evicted: u64,
}

/// The files of all phone numbers.
#[derive(Debug)]
pub struct MediaStore {
    inner: Mutex<Inner>,
    limit: usize,
}

/// Current size of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreUsage {
    pub files: usize,
    pub bytes: usize,
    pub evicted: u64,
}

/// Maximum number of files, whatever their sizes.
const MAX_FILES: usize = 100_000;

impl MediaStore {
    /// An empty store for at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a file and evicts the oldest ones. Returns false when the file is larger than the limit.
    pub fn put(&self, id: &str, file: StoredMedia) -> bool {
        if file.bytes.len() > self.limit {
            return false;
        }
        let mut inner = self.lock();
        inner.bytes += file.bytes.len();
        inner.order.push_back(id.into());
        inner.files.insert(id.into(), file);
        while inner.bytes > self.limit || inner.order.len() > MAX_FILES {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some(file) = inner.files.remove(&oldest) {
                inner.bytes -= file.bytes.len();
                inner.evicted += 1;
            }
        }
        true
    }

    /// A file that exists and has not expired. With a phone number id, the file must belong to that number.
    pub fn get(&self, id: &str, phone_number_id: Option<&str>, now: Timestamp) -> Option<StoredMedia> {
        let inner = self.lock();
        inner.find(id, phone_number_id, now).cloned()
    }

    /// The MIME type of a file of this phone number.
    pub fn mime_type(&self, id: &str, phone_number_id: &str, now: Timestamp) -> Option<String> {
        let inner = self.lock();
        inner.find(id, Some(phone_number_id), now).map(|file| file.mime_type.to_string())
    }

    /// Deletes a file. Returns whether it existed.
    pub fn delete(&self, id: &str, phone_number_id: Option<&str>, now: Timestamp) -> bool {
        let mut inner = self.lock();
        if inner.find(id, phone_number_id, now).is_none() {
            return false;
        }
        if let Some(file) = inner.files.remove(id) {
            inner.bytes -= file.bytes.len();
        }
        true
    }

    /// The current number and size of the files.
    pub fn usage(&self) -> StoreUsage {
        let inner = self.lock();
        StoreUsage { files: inner.files.len(), bytes: inner.bytes, evicted: inner.evicted }
    }

    /// Deletes all files.
    pub fn clear(&self) {
        let files = std::mem::take(&mut *self.lock());
        drop(files);
    }
}

impl Inner {
    fn find(&self, id: &str, phone_number_id: Option<&str>, now: Timestamp) -> Option<&StoredMedia> {
        let file = self.files.get(id)?;
        let is_owner = phone_number_id.is_none_or(|number| *number == *file.phone_number_id);
        (is_owner && now < file.expires).then_some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: usize) -> StoredMedia {
        StoredMedia {
            phone_number_id: "1".into(),
            mime_type: "text/plain".into(),
            sha256: "".into(),
            bytes: vec![0; size].into(),
            expires: Timestamp(100),
        }
    }

    #[test]
    fn media_store_evicts_oldest_file() {
        let store = MediaStore::new(10);
        assert!(store.put("a", file(6)) && store.put("b", file(4)) && store.put("c", file(1)));
        assert!(store.get("a", None, Timestamp(0)).is_none());
        assert_eq!(store.usage(), StoreUsage { files: 2, bytes: 5, evicted: 1 });
        assert!(!store.put("d", file(11)));
    }

    #[test]
    fn stored_media_belongs_to_a_number_and_expires() {
        let store = MediaStore::new(10);
        store.put("a", file(1));
        assert!(store.get("a", Some("1"), Timestamp(99)).is_some());
        assert!(store.get("a", Some("2"), Timestamp(99)).is_none());
        assert!(store.get("a", Some("1"), Timestamp(100)).is_none());
        assert!(!store.delete("a", Some("2"), Timestamp(0)));
        assert!(store.delete("a", None, Timestamp(0)) && !store.delete("a", None, Timestamp(0)));
        assert_eq!(store.usage().bytes, 0);
    }
}
