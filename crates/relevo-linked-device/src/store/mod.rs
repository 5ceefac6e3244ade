//! The keys of a linked device and what the protocol makes it remember, in our store.
//!
//! What it promises to the client: when a method answers, what it changed is on the disk, all of it or nothing, so no
//! crash loses a ratchet or turns one back. What was read before a change was decided is read on the writer's thread,
//! together with the change. Nothing is kept in memory.
//!
//! Only the newest client of an instance can write. A client that was ended leaves tasks behind that know nothing of
//! their end; what they still write, over the keys of a successor or after the device was forgotten, is refused.
//!
//! Ratchets are written behind the messages that moved them, see [`Arrivals`].
//!
//! One write is not waited for: that a pending message is none any more. By then it is in our event log, and should a
//! crash take the deletion back, the message is delivered again, or swept after a week. Everything else is waited
//! for, also what could be learned anew (lists of devices, groups, mappings): the client reads it back from here.
//!
//! All keys lie in one space, by instance; their names are digests, so no name is too long for a key. All values are
//! written in pieces, whatever their size, so all can be deleted without knowing them.

mod app_state;
mod device;
mod expiry;
mod lids;
mod protocol;
mod secrets;
mod sender_keys;
mod signal;
mod tables;
mod tc_tokens;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use whatsapp_rust::wacore::store::error::{Result, StoreError};

use super::pending_decrypts::PendingDecrypts;
use relevo_domain::InstanceNumber;
use relevo_store::{self as store, Key, Store, Tx};

use expiry::ExpiryTable;
use tables::{DeviceKeyspace, Table};

/// The most rows that are swept or deleted in one change, so that other rooms need not wait for the writer.
const BATCH_ROWS: usize = 500;

/// What our store answers; a bare [`Result`] is what the client is answered.
type StoreResult<T> = std::result::Result<T, store::Error>;

/// The store of one client.
pub(super) struct SledBackend {
    store: Store,
    keyspace: DeviceKeyspace,
    /// The name of this client among all that have used these keys.
    holder: [u8; 16],
    pending_decrypts: Arc<PendingDecrypts>,
}

/// Why a write was refused.
#[derive(Debug, thiserror::Error)]
#[error("the device was forgotten, or a newer client holds its keys")]
struct NotHolder;

/// Deletes everything that is known of a device, itself first. A client that still runs can write nothing from then on.
/// When it is cut short, the rest goes before another device is made.
pub(super) async fn delete_device(store: &Store, instance: InstanceNumber) -> StoreResult<()> {
    let all = DeviceKeyspace(instance).prefix();
    delete_between(store, all.clone(), all.after_prefix()).await
}

/// Deletes in steps.
async fn delete_between(store: &Store, start: Key, end: Key) -> StoreResult<()> {
    while store.range(&start, &end).next().transpose()?.is_some() {
        let (start, end) = (start.clone(), end.clone());
        store.write(move |tx| delete_some(tx, &start, &end, BATCH_ROWS)).await?;
    }
    Ok(())
}

fn delete_some(tx: &mut Tx, start: &Key, end: &Key, limit: usize) -> StoreResult<()> {
    let keys = tx.range(start, end).take(limit).map(|entry| entry.map(|(key, _)| key));
    let keys: Vec<_> = keys.collect::<StoreResult<_>>()?;
    keys.into_iter().try_for_each(|key| tx.delete(key.into()))
}

impl SledBackend {
    /// A client begins by asking whether there is a device, and that makes it the holder of the keys.
    ///
    /// `arrivals` hears of every message before the client opens it.
    pub fn new(store: Store, instance: InstanceNumber, pending_decrypts: Arc<PendingDecrypts>) -> Self {
        Self { store, keyspace: DeviceKeyspace(instance), holder: rand::random(), pending_decrypts }
    }

    /// Runs a change and waits until it is durable.
    async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> StoreResult<T> + Send + 'static,
    {
        self.write_with_hook(work, || {}).await
    }

    /// The same, and says in between when the change is lined up: what is written later comes behind it.
    async fn write_with_hook<T, W>(&self, work: W, lined_up: impl FnOnce() + Send) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> StoreResult<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.store.submit(self.if_holder(work), move |done| drop(answer.send(done))).await;
        lined_up();
        let done = answered.await.unwrap_or(Err(store::Error::Closed)).map_err(store_error)?;
        done.ok_or_else(|| StoreError::Database(Box::new(NotHolder)))
    }

    /// Lines a change up and does not wait for it.
    async fn write_detached<W>(&self, work: W)
    where
        W: FnOnce(&mut Tx) -> StoreResult<()> + Send + 'static,
    {
        let done = |done: StoreResult<_>| {
            if let Err(cause) = done {
                tracing::warn!(%cause, "what a linked device need not remember was not deleted");
            }
        };
        self.store.submit(self.if_holder(work), done).await;
    }

    /// A change that is made while this client holds the keys, and else not.
    fn if_holder<T, W>(&self, work: W) -> impl FnOnce(&mut Tx) -> StoreResult<Option<T>> + Send + use<T, W>
    where
        W: FnOnce(&mut Tx) -> StoreResult<T> + Send,
    {
        let (place, name) = (self.keyspace, self.holder);
        move |tx| {
            let holder = tx.get(&place.table_key(Table::Holder))?;
            if holder.as_deref() == Some(name.as_slice()) { work(tx).map(Some) } else { Ok(None) }
        }
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Result<()> {
        self.put_all(vec![(key, value)]).await
    }

    async fn put_record<T: Serialize>(&self, key: Key, record: &T) -> Result<()> {
        self.put(key, store::encode(record).map_err(store_error)?).await
    }

    /// All in one commit.
    async fn put_all<B: AsRef<[u8]> + Send + 'static>(&self, values: Vec<(Key, B)>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.write(move |tx| {
            values.into_iter().try_for_each(|(key, value)| tx.put(key, value.as_ref().to_vec()))
        })
        .await
    }

    async fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        self.store.get(&key).map_err(store_error)
    }

    async fn get_record<T: DeserializeOwned>(&self, key: Key) -> Result<Option<T>> {
        self.get(key).await?.map(|bytes| store::decode(&bytes).map_err(store_error)).transpose()
    }

    async fn delete(&self, key: Key) -> Result<()> {
        self.write(move |tx| tx.delete(key)).await
    }

    /// Whether any key begins so.
    fn contains_prefix(&self, prefix: &Key) -> Result<bool> {
        let first = self.store.range(prefix, &prefix.clone().after_prefix()).next();
        Ok(first.transpose().map_err(store_error)?.is_some())
    }

    /// All rows whose keys begin so; none of them may have parts.
    async fn list<T, R>(&self, prefix: Key, read: R) -> Result<Vec<T>>
    where
        T: Send + 'static,
        R: Fn(&[u8], &[u8]) -> StoreResult<T> + Send + 'static,
    {
        let entries = self.store.range(&prefix, &prefix.clone().after_prefix());
        // An account may know thousands of people: not on a thread that serves.
        let listed = tokio::task::spawn_blocking(move || {
            let rows = entries.map(|entry| {
                let (key, value) = entry?;
                read(&key, &value)
            });
            rows.collect::<StoreResult<Vec<_>>>()
        });
        listed.await.map_err(|cause| StoreError::Database(Box::new(cause)))?.map_err(store_error)
    }

    /// Deletes what is over at a moment, in steps, and says how many rows that were.
    async fn sweep(&self, table: ExpiryTable, moment: i64) -> Result<u32> {
        let place = self.keyspace;
        let (start, end) = table.expired_range(place, moment);
        let mut swept = 0;
        // Mostly nothing is over, which the writer need not be asked about.
        while self.store.range(&start, &end).next().transpose().map_err(store_error)?.is_some() {
            swept += self.write(move |tx| table.sweep(tx, place, moment)).await?;
        }
        Ok(swept)
    }
}

fn store_error(cause: store::Error) -> StoreError {
    match cause {
        store::Error::Codec(_) => StoreError::Serialization(Box::new(cause)),
        _ => StoreError::Database(Box::new(cause)),
    }
}
