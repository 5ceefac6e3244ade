//! The client library's storage backend: keys and protocol state of a linked device, in the node's store.
//!
//! When a method returns, its change is durable, completely or not at all, so a crash neither loses a ratchet nor reverts
//! one. A read that decides on a change runs on the writer's thread, together with the change. Nothing is cached in
//! memory.
//!
//! Only the newest client of an instance can write. A client that has ended may leave tasks that still run; their writes
//! over the keys of a successor, or after the deletion of the device, are refused.
//!
//! Ratchets are written after the messages that advanced them, see [`PendingDecrypts`].
//!
//! The deletion of a pending message is the only write that is not awaited. By then the message is in the event log; if
//! a crash undoes the deletion, the message is delivered again, or swept after a week. All other writes are awaited, also
//! those of data that could be queried again (device lists, groups, mappings), because the client reads them back.
//!
//! All keys are in one key space, by instance; names are digests, so that no name is too long for a key. All values are
//! written as large values, whatever their size, so that they can be deleted without reading them.

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

/// Maximum number of rows that one change sweeps or deletes, so that other writers need not wait long.
const BATCH_ROWS: usize = 500;

/// The result of the node's store; a bare [`Result`] is that of the client library's traits.
type StoreResult<T> = std::result::Result<T, store::Error>;

/// The backend of one client.
pub(super) struct SledBackend {
    store: Store,
    keyspace: DeviceKeyspace,
    /// The random id of this client. The store holds the id of the client that may write.
    holder: [u8; 16],
    pending_decrypts: Arc<PendingDecrypts>,
}

/// A write by a client that no longer holds the keys.
#[derive(Debug, thiserror::Error)]
#[error("the device was deleted, or a newer client holds its keys")]
struct NotHolder;

/// Deletes all data of a device, its record first. A client that still runs cannot write from then on. If the deletion is
/// interrupted, the remaining data is deleted before a new device is created.
pub(super) async fn delete_device(store: &Store, instance: InstanceNumber) -> StoreResult<()> {
    let all = DeviceKeyspace(instance).prefix();
    delete_between(store, all.clone(), all.after_prefix()).await
}

/// Deletes a range of keys, in batches.
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
    /// The backend of a new client, whose random id is `holder`. The client's first call, `exists`, makes it the holder of
    /// the keys.
    ///
    /// The event handler reports each message to `pending_decrypts` before the client decrypts it.
    pub fn new(
        store: Store,
        instance: InstanceNumber,
        holder: [u8; 16],
        pending_decrypts: Arc<PendingDecrypts>,
    ) -> Self {
        Self { store, keyspace: DeviceKeyspace(instance), holder, pending_decrypts }
    }

    /// Runs a change and waits until it is durable.
    async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> StoreResult<T> + Send + 'static,
    {
        self.write_with_hook(work, || {}).await
    }

    /// Runs a change and waits until it is durable. Calls `queued` when the change is queued: later changes are applied
    /// after it.
    async fn write_with_hook<T, W>(&self, work: W, queued: impl FnOnce() + Send) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> StoreResult<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.store.submit(self.if_holder(work), move |done| drop(sender.send(done))).await;
        queued();
        let done = receiver.await.unwrap_or(Err(store::Error::Closed)).map_err(store_error)?;
        done.ok_or_else(|| StoreError::Database(Box::new(NotHolder)))
    }

    /// Queues a change and does not wait until it is durable.
    async fn write_detached<W>(&self, work: W)
    where
        W: FnOnce(&mut Tx) -> StoreResult<()> + Send + 'static,
    {
        let done = |done: StoreResult<_>| {
            if let Err(cause) = done {
                tracing::warn!(%cause, "pending messages not deleted; they will be swept after a week");
            }
        };
        self.store.submit(self.if_holder(work), done).await;
    }

    /// Wraps a change so that it is applied only if this client holds the keys; `None` otherwise.
    fn if_holder<T, W>(&self, work: W) -> impl FnOnce(&mut Tx) -> StoreResult<Option<T>> + Send + use<T, W>
    where
        W: FnOnce(&mut Tx) -> StoreResult<T> + Send,
    {
        let (keyspace, this_client) = (self.keyspace, self.holder);
        move |tx| {
            let holder = tx.get(&keyspace.table_key(Table::Holder))?;
            if holder.as_deref() == Some(this_client.as_slice()) { work(tx).map(Some) } else { Ok(None) }
        }
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Result<()> {
        self.put_all(vec![(key, value)]).await
    }

    async fn put_record<T: Serialize>(&self, key: Key, record: &T) -> Result<()> {
        self.put(key, store::encode(record).map_err(store_error)?).await
    }

    /// Writes all values in one commit.
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

    /// Whether any key has this prefix.
    fn contains_prefix(&self, prefix: &Key) -> Result<bool> {
        let first = self.store.range(prefix, &prefix.clone().after_prefix()).next();
        Ok(first.transpose().map_err(store_error)?.is_some())
    }

    /// Lists all rows whose keys have this prefix. Each value must consist of one part.
    async fn list<T, R>(&self, prefix: Key, read: R) -> Result<Vec<T>>
    where
        T: Send + 'static,
        R: Fn(&[u8], &[u8]) -> StoreResult<T> + Send + 'static,
    {
        let entries = self.store.range(&prefix, &prefix.clone().after_prefix());
        // An account may have thousands of contacts, so this does not run on a runtime thread.
        let listed = tokio::task::spawn_blocking(move || {
            let rows = entries.map(|entry| {
                let (key, value) = entry?;
                read(&key, &value)
            });
            rows.collect::<StoreResult<Vec<_>>>()
        });
        listed.await.map_err(|cause| StoreError::Database(Box::new(cause)))?.map_err(store_error)
    }

    /// Deletes the rows that expired before `cutoff`, in batches, and returns their number.
    async fn sweep(&self, table: ExpiryTable, cutoff: i64) -> Result<u32> {
        let keyspace = self.keyspace;
        let (start, end) = table.expired_range(keyspace, cutoff);
        let mut swept = 0;
        // In most cases no row has expired, which needs no write.
        while self.store.range(&start, &end).next().transpose().map_err(store_error)?.is_some() {
            swept += self.write(move |tx| table.sweep(tx, keyspace, cutoff)).await?;
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
