//! What the writer knows about its commits: their number, the digest of the contents after them, and the witness.

use relevo_clock::Clock;

use super::Error;
use super::contents::{CommitRecord, Contents};
use super::engine::Engine;
use super::tx::Changes;
use super::witness::{Witness, WitnessFile};

/// Number and contents of the last commit, with the witness that outlives the process.
#[derive(Debug)]
pub(super) struct CommitHistory {
    last: CommitRecord,
    contents: Contents,
    witness: WitnessFile,
    clock: Clock,
}

impl CommitHistory {
    /// Continues after the last commit of a database, which is on the disk.
    pub fn new(last: CommitRecord, contents: Contents, witness: WitnessFile, clock: Clock) -> Self {
        Self { last, contents, witness, clock }
    }

    /// Adds the record of the next commit to its changes. `engine` has the contents before them.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read an entry that changes. The history is then not usable any more.
    pub fn record(&mut self, changes: &mut Changes, engine: &Engine) -> Result<(), Error> {
        self.contents.apply(changes.iter(), |key| engine.get(key))?;
        let number = self.last.number.saturating_add(1);
        self.last = CommitRecord::new(number, self.clock.now(), &self.contents);
        changes.insert(CommitRecord::key().into_bytes(), Some(self.last.encode()));
        Ok(())
    }

    /// Writes the witness of the last commit, which has been synced. A failure is logged: a witness that lags is safe.
    pub fn write_witness(&self) {
        if let Err(cause) = self.witness.write(&Witness::new(&self.last, &self.contents)) {
            tracing::warn!(%cause, "witness of the database not written");
        }
    }

    /// Makes the witness durable.
    pub fn close(&self) {
        if let Err(cause) = self.witness.sync() {
            tracing::warn!(%cause, "witness of the database not synced");
        }
    }
}
