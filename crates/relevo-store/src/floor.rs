//! The cheapest durable commit that sled allows: the baseline with which benchmarks compare the store in the same run.

use std::fs::File;
use std::path::Path;

use crate::Error;
use crate::tx::from_sled;

/// A sled database without the store's limits, grouping and scheduling.
pub struct BareSled {
    db: sled::Db,
    file: File,
}

impl BareSled {
    /// Opens the database in `folder`.
    ///
    /// # Errors
    /// sled or the file system cannot open it.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let db = sled::Config::new().path(folder).cache_capacity(16 << 20).open().map_err(from_sled)?;
        db.flush().map_err(from_sled)?;
        let path = folder.join("db");
        let file = File::open(&path).map_err(|cause| Error::io("open", path, cause))?;
        Ok(Self { db, file })
    }

    /// Writes `value` under every key and returns when the batch is durable.
    ///
    /// # Errors
    /// sled or `fdatasync` fails.
    pub fn commit<'a>(&self, keys: impl Iterator<Item = &'a [u8]>, value: &[u8]) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        keys.for_each(|key| batch.insert(key, value));
        self.db.apply_batch(batch).map_err(from_sled)?;
        self.db.flush().map_err(from_sled)?;
        self.file.sync_data().map_err(|cause| Error::io("sync", "db", cause))
    }
}
