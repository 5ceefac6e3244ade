//! The journal of received messages, and statistics of repeated callback data.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::ids;
use relevo_domain::Timestamp;

/// Maximum number of distinct callback data, about 16 bytes each. Beyond it `exact` is false.
const MAX_CALLBACK_IDS: usize = 8_000_000;

/// Approximate size of an entry without its body, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "code", rename_all = "snake_case")]
pub enum RequestOutcome {
    /// The message was accepted.
    Accepted,
    /// The message was refused with this error code.
    Refused(u32),
    /// A fault cut or held the connection before the message was accepted.
    Dropped,
}

/// A request to `/messages`.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Time of arrival.
    pub at: Timestamp,
    pub phone_number_id: Box<str>,
    /// The recipient without punctuation; absent when the request has none.
    pub to: Option<Box<str>>,
    pub kind: Box<str>,
    pub wamid: Option<Box<str>>,
    pub callback_data: Option<Box<str>>,
    pub outcome: RequestOutcome,
    /// False when a fault suppressed the answer to an accepted message.
    pub answered: bool,
    /// The body as received.
    pub body: Box<str>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Number of evicted entries. Entries are numbered from 1 without gaps, so the first kept one has the next number.
    evicted: u64,
    entries: VecDeque<Arc<JournalEntry>>,
    bytes: usize,
    callback_ids: HashSet<u64>,
    duplicates: u64,
    overflowed: bool,
}

/// The journal. A write takes one short lock and no allocation beyond the entry.
#[derive(Debug)]
pub struct Journal {
    inner: Mutex<Inner>,
    keep_messages: usize,
    keep_bytes: usize,
    /// Notified after every write.
    pub written: Notify,
}

/// How often the same callback data arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CallbackDataStats {
    /// Number of distinct values.
    pub distinct: usize,
    /// Number of accepted messages with a value that an earlier accepted message had.
    pub duplicates: u64,
    /// False when there were too many distinct values; the counts are then lower bounds.
    pub exact: bool,
}

/// A page of entries with their sequence numbers.
pub struct JournalPage {
    pub entries: Vec<(u64, Arc<JournalEntry>)>,
    /// Sequence number of the last entry that was examined: the next page starts after it.
    pub last: u64,
    /// Number of evicted entries.
    pub evicted: u64,
    /// Whether there are entries after `last`.
    pub more: bool,
}

impl Journal {
    /// An empty journal with these bounds.
    pub fn new(keep_messages: usize, keep_bytes: usize) -> Self {
        Self { inner: Mutex::default(), keep_messages, keep_bytes, written: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an entry, evicts the oldest ones and wakes readers.
    pub fn write(&self, entry: JournalEntry) {
        let callback = match (&entry.callback_data, entry.outcome) {
            (Some(data), RequestOutcome::Accepted) => Some(ids::hash64(data)),
            _ => None,
        };
        let entry = Arc::new(entry);
        let mut inner = self.lock();
        if let Some(callback) = callback {
            inner.count_callback(callback);
        }
        inner.bytes += entry.size_bytes();
        inner.entries.push_back(entry);
        let mut retired = None;
        while inner.entries.len() > self.keep_messages || inner.bytes > self.keep_bytes {
            let Some(oldest) = inner.entries.pop_front() else { break };
            inner.bytes -= oldest.size_bytes();
            inner.evicted += 1;
            // Freed after the lock is released: usually one entry is evicted for one that is added.
            retired = Some(oldest);
        }
        drop(inner);
        drop(retired);
        self.written.notify_waiters();
    }

    /// At most `limit` entries after the sequence number `after` that match `wanted`, oldest first.
    pub fn page(&self, after: u64, limit: usize, wanted: impl Fn(&JournalEntry) -> bool) -> JournalPage {
        let inner = self.lock();
        let start = after.max(inner.evicted);
        let skip = usize::try_from(start - inner.evicted).unwrap_or(usize::MAX);
        let total = inner.evicted + inner.entries.len() as u64;
        let mut page =
            JournalPage { entries: Vec::new(), last: start.min(total), evicted: inner.evicted, more: false };
        for (number, entry) in (start + 1..).zip(inner.entries.iter().skip(skip)) {
            if page.entries.len() == limit {
                page.more = true;
                break;
            }
            page.last = number;
            if wanted(entry) {
                page.entries.push((number, Arc::clone(entry)));
            }
        }
        page
    }

    /// The statistics of callback data.
    pub fn callback_data(&self) -> CallbackDataStats {
        let inner = self.lock();
        CallbackDataStats {
            distinct: inner.callback_ids.len(),
            duplicates: inner.duplicates,
            exact: !inner.overflowed,
        }
    }

    /// Deletes all entries and statistics. Sequence numbers start again at 1.
    pub fn clear(&self) {
        let entries = std::mem::take(&mut *self.lock());
        drop(entries);
    }
}

impl Inner {
    fn count_callback(&mut self, callback: u64) {
        if self.callback_ids.contains(&callback) {
            self.duplicates += 1;
        } else if self.callback_ids.len() < MAX_CALLBACK_IDS {
            self.callback_ids.insert(callback);
        } else {
            self.overflowed = true;
        }
    }
}

impl JournalEntry {
    fn size_bytes(&self) -> usize {
        self.body.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// An entry in the format of the control plane.
#[derive(Serialize)]
pub struct JournalEntryView<'a> {
    seq: u64,
    at_ms: u64,
    phone_number_id: &'a str,
    to: Option<&'a str>,
    r#type: &'a str,
    wamid: Option<&'a str>,
    biz_opaque_callback_data: Option<&'a str>,
    #[serde(flatten)]
    outcome: RequestOutcome,
    answered: bool,
    body: Option<&'a RawValue>,
}

impl<'a> JournalEntryView<'a> {
    /// The view of an entry with its sequence number.
    pub fn new(seq: u64, entry: &'a JournalEntry) -> Self {
        Self {
            seq,
            at_ms: entry.at.millis(),
            phone_number_id: &entry.phone_number_id,
            to: entry.to.as_deref(),
            r#type: &entry.kind,
            wamid: entry.wamid.as_deref(),
            biz_opaque_callback_data: entry.callback_data.as_deref(),
            outcome: entry.outcome,
            answered: entry.answered,
            body: serde_json::from_str(&entry.body).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(to: &str, callback: Option<&str>) -> JournalEntry {
        JournalEntry {
            at: Timestamp(1),
            phone_number_id: "1".into(),
            to: Some(to.into()),
            kind: "text".into(),
            wamid: None,
            callback_data: callback.map(Into::into),
            outcome: RequestOutcome::Accepted,
            answered: true,
            body: "{}".into(),
        }
    }

    fn numbers(page: &JournalPage) -> Vec<u64> {
        page.entries.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn journal_pages_have_no_gaps() {
        let journal = Journal::new(10, 1 << 20);
        (0..5).for_each(|_| journal.write(entry("1", None)));
        let first = journal.page(0, 2, |_| true);
        assert_eq!((numbers(&first), first.last, first.more), (vec![1, 2], 2, true));
        let rest = journal.page(first.last, 10, |_| true);
        assert_eq!((numbers(&rest), rest.last, rest.more), (vec![3, 4, 5], 5, false));
        assert_eq!(numbers(&journal.page(5, 10, |_| true)), Vec::<u64>::new());
    }

    #[test]
    fn journal_evicts_oldest_entries_and_keeps_sequence_numbers() {
        let journal = Journal::new(3, 1 << 20);
        (0..5).for_each(|_| journal.write(entry("1", None)));
        let page = journal.page(0, 10, |_| true);
        assert_eq!((numbers(&page), page.evicted), (vec![3, 4, 5], 2));
    }

    #[test]
    fn journal_evicts_entries_over_the_byte_limit() {
        let journal = Journal::new(100, 3 * (ENTRY_OVERHEAD_BYTES + 2));
        (0..5).for_each(|_| journal.write(entry("1", None)));
        assert_eq!(journal.page(0, 10, |_| true).evicted, 2);
    }

    #[test]
    fn filtered_page_advances_past_skipped_entries() {
        let journal = Journal::new(10, 1 << 20);
        ["1", "2", "1"].into_iter().for_each(|to| journal.write(entry(to, None)));
        let page = journal.page(0, 10, |entry| entry.to.as_deref() == Some("2"));
        assert_eq!((numbers(&page), page.last), (vec![2], 3));
    }

    #[test]
    fn duplicate_callback_data_is_counted_for_accepted_messages() {
        let journal = Journal::new(1, 1 << 20);
        ["a", "b", "a", "a"].into_iter().for_each(|data| journal.write(entry("1", Some(data))));
        journal.write(JournalEntry { outcome: RequestOutcome::Refused(100), ..entry("1", Some("b")) });
        assert_eq!(journal.callback_data(), CallbackDataStats { distinct: 2, duplicates: 2, exact: true });
    }
}
