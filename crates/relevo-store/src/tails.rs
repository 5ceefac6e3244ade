//! The tails of the event logs as the disk has them, for those who wait for events.
//!
//! They are published after the commit that moved them was synced, and before anybody is answered: what is seen here
//! cannot be taken back, and whoever was told of a change sees it here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Key;
use super::tx::Change;

/// A mutex, because a look takes as long as a look into a map.
#[derive(Debug, Default)]
pub(super) struct Tails {
    each: Mutex<HashMap<Vec<u8>, Tail>>,
    /// Changes whenever one of them did.
    any: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Tail {
    value: Option<Vec<u8>>,
    moved: watch::Sender<()>,
}

impl Tails {
    /// Publishes what a commit has made durable.
    pub fn publish(&self, changes: Vec<(Vec<u8>, Change)>) {
        if changes.is_empty() {
            return;
        }
        let mut each = self.each();
        for (key, value) in changes {
            let tail = each.entry(key.clone()).or_default();
            let gone = value.is_none();
            tail.value = value;
            tail.moved.send_replace(());
            if gone && tail.moved.receiver_count() == 0 {
                each.remove(&key);
            }
        }
        drop(each);
        self.any.send_replace(());
    }

    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.each().get(key.as_slice()).and_then(|tail| tail.value.clone())
    }

    pub fn watch(&self, key: &Key) -> watch::Receiver<()> {
        self.each().entry(key.as_slice().to_vec()).or_default().moved.subscribe()
    }

    pub fn watch_all(&self) -> watch::Receiver<()> {
        self.any.subscribe()
    }

    fn each(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Tail>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Space;

    fn key(n: u8) -> Key {
        Key::new(Space::EventTail).u8(n)
    }

    fn change(n: u8, value: Option<u8>) -> (Vec<u8>, Change) {
        (key(n).as_slice().to_vec(), value.map(|value| vec![value]))
    }

    #[test]
    fn each_tail_wakes_those_who_wait_for_it_and_every_tail_those_who_wait_for_any() {
        let tails = Tails::default();
        let (one, two, any) = (tails.watch(&key(1)), tails.watch(&key(2)), tails.watch_all());
        tails.publish(vec![change(1, Some(7))]);
        let moved = [&one, &two, &any].map(|tail| tail.has_changed().unwrap());
        assert_eq!(moved, [true, false, true]);
        assert_eq!((tails.get(&key(1)), tails.get(&key(2))), (Some(vec![7]), None));
        tails.publish(Vec::new());
        assert!(!tails.watch_all().has_changed().unwrap());
    }

    #[test]
    fn what_is_gone_is_remembered_for_nobody() {
        let tails = Tails::default();
        let waiting = tails.watch(&key(1));
        tails.publish(vec![change(1, Some(1)), change(2, Some(1))]);
        tails.publish(vec![change(1, None), change(2, None)]);
        assert!(waiting.has_changed().unwrap());
        let known: Vec<_> = tails.each().keys().cloned().collect();
        assert_eq!(known, [key(1).as_slice()]);
    }
}
