//! Which blobs the queue's messages need.

use crate::store::{self, BlobSet, Error, Key, Space, Store};

use super::record::Job;

/// Every blob that a job or a dead letter needs.
///
/// Messages move while this reads. What goes from one space into the other in between is met in at least one of
/// them, because the first is read once more at the end.
pub(super) fn referenced(store: &Store) -> Result<BlobSet, Error> {
    let mut found = BlobSet::default();
    for space in [Space::DeadLetter, Space::Job, Space::DeadLetter] {
        let all = Key::new(space);
        for entry in store.range(&all, &all.clone().after_prefix()) {
            let key = Key::from(entry?.0);
            if let Some(job) = read(store, &key)?
                && let Some(blob) = job.message.content.blob()
            {
                found.insert(blob);
            }
        }
    }
    Ok(found)
}

/// A job, unless it went meanwhile: its parts go with it.
fn read(store: &Store, key: &Key) -> Result<Option<Job>, Error> {
    let read = store::get_large(key, |key| store.get(key));
    let read = read.and_then(|bytes| bytes.map(|bytes| store::decode(&bytes)).transpose());
    match read {
        Err(_) if store.get(key)?.is_none() => Ok(None),
        read => read,
    }
}
