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
mod dated;
mod device;
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

use super::arrivals::Arrivals;
use relevo_domain::InstanceNumber;
use relevo_store::{self as store, Key, Store, Tx};

use dated::Dated;
use tables::{Place, Table};

/// The most rows that are swept or deleted in one change, so that other rooms need not wait for the writer.
const STEP: usize = 500;

/// What our store answers; a bare [`Result`] is what the client is answered.
type Stored<T> = std::result::Result<T, store::Error>;

/// The store of one client.
pub(super) struct SledBackend {
    store: Store,
    place: Place,
    /// The name of this client among all that have used these keys.
    holder: [u8; 16],
    arrivals: Arc<Arrivals>,
}

/// Why a write was refused.
#[derive(Debug, thiserror::Error)]
#[error("the device was forgotten, or a newer client holds its keys")]
struct NotHolder;

/// Deletes everything that is known of a device, itself first. A client that still runs can write nothing from then on.
/// When it is cut short, the rest goes before another device is made.
pub(super) async fn forget(store: &Store, instance: InstanceNumber) -> Stored<()> {
    let all = Place(instance).all();
    delete_between(store, all.clone(), all.after_prefix()).await
}

/// Deletes in steps.
async fn delete_between(store: &Store, start: Key, end: Key) -> Stored<()> {
    while store.range(&start, &end).next().transpose()?.is_some() {
        let (start, end) = (start.clone(), end.clone());
        store.write(move |tx| delete_some(tx, &start, &end, STEP)).await?;
    }
    Ok(())
}

fn delete_some(tx: &mut Tx, start: &Key, end: &Key, limit: usize) -> Stored<()> {
    let keys = tx.range(start, end).take(limit).map(|entry| entry.map(|(key, _)| key));
    let keys: Vec<_> = keys.collect::<Stored<_>>()?;
    keys.into_iter().try_for_each(|key| store::delete_large(tx, key.into()))
}

impl SledBackend {
    /// A client begins by asking whether there is a device, and that makes it the holder of the keys.
    ///
    /// `arrivals` hears of every message before the client opens it.
    pub fn new(store: Store, instance: InstanceNumber, arrivals: Arc<Arrivals>) -> Self {
        Self { store, place: Place(instance), holder: rand::random(), arrivals }
    }

    /// Runs a change and waits until it is durable.
    async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Stored<T> + Send + 'static,
    {
        self.write_behind(work, || {}).await
    }

    /// The same, and says in between when the change is lined up: what is written later comes behind it.
    async fn write_behind<T, W>(&self, work: W, lined_up: impl FnOnce() + Send) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Stored<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.store.submit(self.as_holder(work), move |done| drop(answer.send(done))).await;
        lined_up();
        let done = answered.await.unwrap_or(Err(store::Error::Closed)).map_err(failed)?;
        done.ok_or_else(|| StoreError::Database(Box::new(NotHolder)))
    }

    /// Lines a change up and does not wait for it.
    async fn write_soon<W>(&self, work: W)
    where
        W: FnOnce(&mut Tx) -> Stored<()> + Send + 'static,
    {
        let done = |done: Stored<_>| {
            if let Err(cause) = done {
                tracing::warn!(%cause, "what a linked device need not remember was not deleted");
            }
        };
        self.store.submit(self.as_holder(work), done).await;
    }

    /// A change that is made while this client holds the keys, and else not.
    fn as_holder<T, W>(&self, work: W) -> impl FnOnce(&mut Tx) -> Stored<Option<T>> + Send + use<T, W>
    where
        W: FnOnce(&mut Tx) -> Stored<T> + Send,
    {
        let (place, name) = (self.place, self.holder);
        move |tx| {
            let holder = store::get_large(&place.table(Table::Holder), |key| tx.get(key))?;
            if holder.as_deref() == Some(name.as_slice()) { work(tx).map(Some) } else { Ok(None) }
        }
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Result<()> {
        self.put_all(vec![(key, value)]).await
    }

    async fn put_record<T: Serialize>(&self, key: Key, record: &T) -> Result<()> {
        self.put(key, store::encode(record).map_err(failed)?).await
    }

    /// All in one commit.
    async fn put_all<B: AsRef<[u8]> + Send + 'static>(&self, values: Vec<(Key, B)>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.write(move |tx| {
            values.into_iter().try_for_each(|(key, value)| store::put_large(tx, key, value.as_ref()))
        })
        .await
    }

    async fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        let Some(value) = self.store.get(&key).map_err(failed)? else { return Ok(None) };
        if let Some(whole) = store::whole_of_large(&value).map_err(failed)? {
            return Ok(Some(whole.to_vec()));
        }
        // Beside the writer, the parts of two values could be read as one.
        self.store.write(move |tx| store::get_large(&key, |key| tx.get(key))).await.map_err(failed)
    }

    async fn get_record<T: DeserializeOwned>(&self, key: Key) -> Result<Option<T>> {
        self.get(key).await?.map(|bytes| store::decode(&bytes).map_err(failed)).transpose()
    }

    async fn delete(&self, key: Key) -> Result<()> {
        self.write(move |tx| store::delete_large(tx, key)).await
    }

    /// Whether any key begins so.
    fn any(&self, prefix: &Key) -> Result<bool> {
        let first = self.store.range(prefix, &prefix.clone().after_prefix()).next();
        Ok(first.transpose().map_err(failed)?.is_some())
    }

    /// All rows whose keys begin so; none of them may have parts.
    async fn list<T, R>(&self, prefix: Key, read: R) -> Result<Vec<T>>
    where
        T: Send + 'static,
        R: Fn(&[u8], &[u8]) -> Stored<T> + Send + 'static,
    {
        let entries = self.store.range(&prefix, &prefix.clone().after_prefix());
        // An account may know thousands of people: not on a thread that serves.
        let listed = tokio::task::spawn_blocking(move || {
            let rows = entries.map(|entry| {
                let (key, value) = entry?;
                read(&key, store::head_of_large(&value)?)
            });
            rows.collect::<Stored<Vec<_>>>()
        });
        listed.await.map_err(|cause| StoreError::Database(Box::new(cause)))?.map_err(failed)
    }

    /// Deletes what is over at a moment, in steps, and says how many rows that were.
    async fn sweep(&self, table: Dated, moment: i64) -> Result<u32> {
        let place = self.place;
        let (start, end) = table.over(place, moment);
        let mut swept = 0;
        // Mostly nothing is over, which the writer need not be asked about.
        while self.store.range(&start, &end).next().transpose().map_err(failed)?.is_some() {
            swept += self.write(move |tx| table.sweep(tx, place, moment)).await?;
        }
        Ok(swept)
    }
}

fn failed(cause: store::Error) -> StoreError {
    match cause {
        store::Error::Codec(_) => StoreError::Serialization(Box::new(cause)),
        _ => StoreError::Database(Box::new(cause)),
    }
}
