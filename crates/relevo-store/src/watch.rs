//! The durable tails of the event logs, and notifications for their readers.
//!
//! The writer publishes tails after it has synced the commit that changed them, and before it completes the commit's
//! callers. A published tail is therefore never undone by a crash, and a caller whose write has completed reads its own
//! change here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Key;
use super::tx::ValueChange;

/// Durable tails by key, with their watchers. A mutex suffices, because every access is one map operation.
#[derive(Debug, Default)]
pub(super) struct TailWatch {
    tails: Mutex<HashMap<Vec<u8>, WatchedTail>>,
    /// Notified whenever any tail changes.
    any_changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct WatchedTail {
    value: Option<Vec<u8>>,
    changed: watch::Sender<()>,
}

impl TailWatch {
    /// Publishes the tails that a commit has made durable, and notifies their watchers.
    pub fn publish(&self, changes: Vec<(Vec<u8>, ValueChange)>) {
        if changes.is_empty() {
            return;
        }
        let mut tails = self.lock_tails();
        for (key, value) in changes {
            let tail = tails.entry(key.clone()).or_default();
            let deleted = value.is_none();
            tail.value = value;
            tail.changed.send_replace(());
            if deleted && tail.changed.receiver_count() == 0 {
                tails.remove(&key);
            }
        }
        drop(tails);
        self.any_changed.send_replace(());
    }

    /// The durable value of a tail.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.lock_tails().get(key.as_slice()).and_then(|tail| tail.value.clone())
    }

    /// A receiver that is notified when this tail changes.
    pub fn watch(&self, key: &Key) -> watch::Receiver<()> {
        self.lock_tails().entry(key.as_slice().to_vec()).or_default().changed.subscribe()
    }

    /// A receiver that is notified when any tail changes.
    pub fn watch_all(&self) -> watch::Receiver<()> {
        self.any_changed.subscribe()
    }

    fn lock_tails(&self) -> MutexGuard<'_, HashMap<Vec<u8>, WatchedTail>> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Space;

    fn key(n: u8) -> Key {
        Key::new(Space::EventTail).u8(n)
    }

    fn change(n: u8, value: Option<u8>) -> (Vec<u8>, ValueChange) {
        (key(n).as_slice().to_vec(), value.map(|value| vec![value]))
    }

    #[test]
    fn publish_wakes_watchers_of_the_tail_and_of_all_tails() {
        let tails = TailWatch::default();
        let (one, two, any) = (tails.watch(&key(1)), tails.watch(&key(2)), tails.watch_all());
        tails.publish(vec![change(1, Some(7))]);
        let notified = [&one, &two, &any].map(|tail| tail.has_changed().unwrap());
        assert_eq!(notified, [true, false, true]);
        assert_eq!((tails.get(&key(1)), tails.get(&key(2))), (Some(vec![7]), None));
        tails.publish(Vec::new());
        assert!(!tails.watch_all().has_changed().unwrap());
    }

    #[test]
    fn deleted_tail_without_watchers_is_removed() {
        let tails = TailWatch::default();
        let watcher = tails.watch(&key(1));
        tails.publish(vec![change(1, Some(1)), change(2, Some(1))]);
        tails.publish(vec![change(1, None), change(2, None)]);
        assert!(watcher.has_changed().unwrap());
        let remaining: Vec<_> = tails.lock_tails().keys().cloned().collect();
        assert_eq!(remaining, [key(1).as_slice()]);
    }
}
