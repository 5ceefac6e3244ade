//! The blobs that messages of the queue reference.

use relevo_store::{self as store, BlobSet, Error, Key, Space, Store};

use super::records::Job;

/// Every blob that a job or a dead letter references.
///
/// Messages move between the two spaces during the read. Dead letters are read again at the end, so that a message is
/// found in at least one of them.
pub(super) fn referenced(store: &Store) -> Result<BlobSet, Error> {
    let mut found = BlobSet::default();
    for space in [Space::DeadLetter, Space::Job, Space::DeadLetter] {
        let all = Key::new(space);
        for entry in store.range(&all, &all.clone().after_prefix()) {
            let key = Key::from(entry?.0);
            if let Some(job) = read_job(store, &key)?
                && let Some(blob) = job.message.content.blob()
            {
                found.insert(blob);
            }
        }
    }
    Ok(found)
}

/// Reads a job; `None` when it was deleted meanwhile, in which case its parts may be missing.
fn read_job(store: &Store, key: &Key) -> Result<Option<Job>, Error> {
    store.get(key)?.map(|bytes| store::decode(&bytes)).transpose()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::queue::keys;
    use relevo_domain::{
        AmbiguousPolicy, Class, Content, InstanceNumber, Media, MediaKind, MediaSource, MessageId,
        MessageOptions, Mode, OutboundMessage, Timestamp,
    };
    use relevo_metrics::Metrics;
    use relevo_store::{Blobs, DataFolder, Options};

    #[tokio::test]
    async fn sweep_keeps_blobs_of_jobs_and_dead_letters() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let blobs = Blobs::open(&folder).unwrap();
        let mut stored = Vec::new();
        for content in ["waiting", "dead", "settled"] {
            stored.push(blobs.put(Bytes::from(content), "image/png").await.unwrap());
        }
        let id = |n| MessageId::new(Timestamp(1), n, InstanceNumber::FIRST, Class::Bulk, 0);
        let job = |blob: usize| Job {
            message: OutboundMessage {
                to: "573001234567".parse().unwrap(),
                content: Content::Media(Media {
                    kind: MediaKind::Image,
                    source: MediaSource::Blob(stored[blob].clone()),
                    // Larger than one value, as records may be.
                    caption: Some("x".repeat(10_000)),
                    file_name: None,
                    voice: false,
                }),
                quote: None,
                options: MessageOptions::default(),
            },
            mode: Mode::Async,
            expires_at: None,
            on_ambiguous: AmbiguousPolicy::Hold,
            repeatable: false,
            scheduled: false,
            idempotency: None,
        };
        let (waiting, dead) = (job(0), job(1));
        let written = store.write(move |tx| {
            waiting.write(tx, keys::job(id(0)))?;
            dead.write(tx, keys::dead_letter(id(1)))
        });
        written.await.unwrap();

        let needed = referenced(&store).unwrap();
        let swept = blobs.sweep(&needed, Timestamp(u64::MAX / 2)).unwrap();
        assert_eq!((swept.files, swept.bytes), (1, 7));
        assert!(blobs.get(&stored[0]).await.is_ok() && blobs.get(&stored[1]).await.is_ok());
        assert!(blobs.get(&stored[2]).await.is_err());

        // A record that cannot be read is an error, because its blobs are unknown.
        let broken = store.write(move |tx| tx.put(keys::job(id(0)), vec![0, 0, 1]));
        broken.await.unwrap();
        assert!(referenced(&store).is_err());
    }
}
