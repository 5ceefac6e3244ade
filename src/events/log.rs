use tokio::sync::watch;

use crate::domain::{InstanceNumber, Invalid};
use crate::store::{self, Store};

use super::scan::{self, Page, Wanted};
use super::{Error, Kinds, Places, last_sequence};

/// The logs of all instances, for readers. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    store: Store,
}

impl Log {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Changes whenever events were appended to any log.
    pub fn watch(&self) -> watch::Receiver<()> {
        super::watch(&self.store)
    }

    /// Behind the newest event of each of these logs. Events that are appended meanwhile may count or not.
    pub async fn end(&self, instances: &[InstanceNumber]) -> Result<Places, Error> {
        let instances = instances.to_vec();
        let places = self.blocking(move |store| {
            let mut places = Places::default();
            for instance in instances {
                places.set(instance, last_sequence(store, instance)?);
            }
            Ok(places)
        });
        let places = places.await?;
        self.until_durable().await?;
        Ok(places)
    }

    /// Whether a place can be gone on from.
    ///
    /// # Errors
    ///
    /// It lies behind the newest event: it was never handed out, or by a log that is no more.
    pub async fn check(&self, places: &Places) -> Result<(), Error> {
        let places = places.clone();
        self.blocking(move |store| {
            for (instance, sequence) in places.iter() {
                let last = last_sequence(store, instance)?;
                if sequence > last {
                    let reason = format!("{sequence} is behind the newest event, which is {last}");
                    return Err(Invalid::new("after", reason).into());
                }
            }
            Ok(())
        })
        .await
    }

    /// Whether these logs hold something behind these places. A look at memory as a rule: much cheaper than a page.
    pub fn has_more(&self, instances: &[InstanceNumber], from: &Places) -> Result<bool, Error> {
        for &instance in instances {
            if last_sequence(&self.store, instance)? > from.get(instance).unwrap_or(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next page of these logs, read as one. Everything in it is durable.
    pub async fn page(
        &self,
        instances: &[InstanceNumber],
        from: &Places,
        wanted: &Wanted,
    ) -> Result<Page, store::Error> {
        let (store, instances) = (self.store.clone(), instances.to_vec());
        let (begun, wanted) = (from.clone(), wanted.clone());
        let reading = tokio::task::spawn_blocking(move || scan::page(&store, &instances, &begun, &wanted));
        let page = reading.await.unwrap_or(Err(store::Error::Panicked))?;
        if page.next != *from {
            self.until_durable().await?;
        }
        Ok(page)
    }

    /// Waits for what was read so far, which may be on its way to the disk: a commit that follows comes after it.
    /// Without that, a crash could give a sequence that a reader has noted to another event.
    async fn until_durable(&self) -> Result<(), store::Error> {
        self.store.write(|_| Ok(())).await
    }

    /// Reads that may have to come from the disk, on a thread that may wait for it.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        let reading = tokio::task::spawn_blocking(move || read(&store));
        reading.await.unwrap_or(Err(store::Error::Panicked.into()))
    }
}

/// Up to `limit` events after the sequence `after`, oldest first, of whatever kind. What is gone is passed over. Reads
/// the disk.
pub fn read(
    store: &Store,
    instance: InstanceNumber,
    after: u64,
    limit: usize,
) -> Result<Vec<super::Envelope>, store::Error> {
    let wanted = Wanted { kinds: Kinds::All, limit: limit + 1, bytes: usize::MAX, now: Default::default() };
    let page = scan::page(store, &[instance], &Places::one(instance, after), &wanted)?;
    let events = page.items.into_iter().map(|item| item.envelope);
    Ok(events.filter(|envelope| envelope.missing().is_none()).take(limit).collect())
}
