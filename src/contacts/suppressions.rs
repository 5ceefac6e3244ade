use relevo_clock::Clock;
use relevo_domain::{Invalid, Recipient, Timestamp};
use relevo_store::{self as store, Key, Space, Store, Tx};

use super::Error;
use super::suppression::{self, Record, Why};

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 512;

/// So many people are entered in one commit.
const AT_ONCE: usize = 500;

/// The list of people who must not be written to unasked. Cheap to clone.
#[derive(Clone)]
pub struct Suppressions {
    store: Store,
    clock: Clock,
}

/// Somebody on the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Suppressed {
    pub who: Recipient,
    pub why: Why,
    pub at: Timestamp,
    /// What whoever entered them wanted to remember.
    pub note: Option<String>,
}

/// What entering people did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entered {
    pub added: u64,
    /// They were on the list already, which keeps its first reason.
    pub already: u64,
}

impl Suppressions {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Whether somebody is on the list.
    pub fn holds(&self, who: &Recipient) -> Result<bool, store::Error> {
        Ok(self.store.get(&suppression::key_of(who))?.is_some())
    }

    /// Somebody's entry.
    pub fn get(&self, who: &Recipient) -> Result<Option<Suppressed>, Error> {
        match self.store.get(&suppression::key_of(who))? {
            Some(bytes) => Ok(Some(entry(who.clone(), store::decode(&bytes)?))),
            None => Ok(None),
        }
    }

    /// Up to `limit` entries behind `after`, in the order of their spelling.
    pub async fn list(&self, after: Option<Recipient>, limit: usize) -> Result<Vec<Suppressed>, Error> {
        let store = self.store.clone();
        let listing = tokio::task::spawn_blocking(move || page(&store, after.as_ref(), limit));
        Ok(listing.await.unwrap_or(Err(store::Error::Panicked))?)
    }

    /// Puts people on the list, some hundreds in each commit: when it fails half way, a part is entered, and
    /// entering all of them again does no harm.
    ///
    /// # Errors
    ///
    /// The note is too long, the disk too full.
    pub async fn enter(
        &self,
        people: Vec<Recipient>,
        why: Why,
        note: Option<String>,
    ) -> Result<Entered, Error> {
        if self.store.is_full() {
            return Err(Error::DiskFull);
        }
        if note.as_ref().is_some_and(|note| note.len() > MAX_NOTE) {
            return Err(Invalid::new("note", format!("may have {MAX_NOTE} bytes at most")).into());
        }
        let mut entered = Entered::default();
        for group in people.chunks(AT_ONCE) {
            let (group, record) = (group.to_vec(), Record { why, at: self.clock.now(), note: note.clone() });
            let work = move |tx: &mut Tx| {
                let mut added = 0;
                for who in &group {
                    added += u64::from(suppression::enter(tx, who, &record)?);
                }
                Ok((added, group.len()))
            };
            let (added, all) = self.store.write(work).await?;
            entered.added += added;
            entered.already += u64::try_from(all).unwrap_or(u64::MAX).saturating_sub(added);
        }
        Ok(entered)
    }

    /// Takes somebody off the list. `false` when they were not on it.
    pub async fn release(&self, who: Recipient) -> Result<bool, Error> {
        Ok(self.store.write(move |tx| suppression::release(tx, &who)).await?)
    }
}

fn page(store: &Store, after: Option<&Recipient>, limit: usize) -> Result<Vec<Suppressed>, store::Error> {
    let all = Key::new(Space::Suppressed);
    let start = after.map_or_else(|| all.clone(), |who| suppression::key_of(who).successor());
    let mut found = Vec::new();
    for item in store.range(&start, &all.after_prefix()).take(limit) {
        let (key, record) = item?;
        let spelling = String::from_utf8_lossy(key.get(1..).unwrap_or_default());
        let who = spelling.parse().map_err(|wrong: Invalid| store::Error::Codec(wrong.to_string()))?;
        found.push(entry(who, store::decode(&record)?));
    }
    Ok(found)
}

fn entry(who: Recipient, record: Record) -> Suppressed {
    Suppressed { who, why: record.why, at: record.at, note: record.note }
}
