//! The witness: a file beside the database that names the last commit which is known to be on the disk.
//!
//! The writer overwrites it after each sync, never before, and does not sync it. It is therefore never ahead of the
//! database, whatever the order in which a disk writes: a database that lacks the commit of its witness has lost it. After
//! a kill it is exact. After a power cut it can be some seconds old; the digest in the database
//! ([`contents`](super::contents)) still proves what is before it. A clean stop syncs it.
//!
//! The file has two slots of 4 KiB, written in turn, each with a checksum, so that an interrupted write leaves the slot
//! before it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use relevo_domain::Timestamp;

use super::contents::{CommitRecord, Contents};
use super::{Error, codec};

/// Name of the file in the data folder.
pub(super) const FILE_NAME: &str = "db-witness";

/// Size of a slot: that of a page, so that the slots never share one.
const SLOT: usize = 4096;

/// Size of the fields before a slot's contents: their length and their checksum.
const SLOT_HEADER: usize = 4 + 8;

/// The last commit that is known to be on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Witness {
    /// Number of the commit; 0 before the first.
    pub number: u64,
    pub at: Timestamp,
    digest: [u8; 16],
    /// Number of entries by the first byte of their key.
    pub counts: BTreeMap<u8, u64>,
}

impl Witness {
    pub fn new(record: &CommitRecord, contents: &Contents) -> Self {
        let counts = contents.counts().collect();
        Self { number: record.number, at: record.at, digest: record.digest.to_be_bytes(), counts }
    }

    /// The witness of a database that does not exist yet.
    pub fn of_nothing() -> Self {
        Self { number: 0, at: Timestamp(0), digest: [0; 16], counts: BTreeMap::new() }
    }

    /// Digest of all entries after the commit.
    pub fn digest(&self) -> u128 {
        u128::from_be_bytes(self.digest)
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Reads the witness of a data folder; none when there is no file or no slot of it holds.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(FILE_NAME);
        match std::fs::read(&path) {
            Ok(file) => Ok(file.chunks(SLOT).filter_map(decode).max_by_key(|witness| witness.number)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::io("cannot read", path, cause)),
        }
    }
}

/// The open file of the witness.
#[derive(Debug)]
pub(super) struct WitnessFile {
    path: PathBuf,
    file: File,
}

impl WitnessFile {
    /// Opens the file of a data folder, writes `witness` to both slots, and syncs it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file system refuses.
    pub fn create(folder: &Path, witness: &Witness) -> Result<Self, Error> {
        let path = folder.join(FILE_NAME);
        let slot = encode(witness)?;
        let create = || -> io::Result<File> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            // One after the other: at every moment a slot holds, the old one or the new one.
            for offset in [0, SLOT as u64] {
                file.write_all_at(&slot, offset)?;
                file.sync_all()?;
            }
            File::open(folder)?.sync_all()?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Self { path, file }),
            Err(cause) => Err(Error::io("cannot write", path, cause)),
        }
    }

    /// Writes the witness of a commit that has been synced.
    ///
    /// # Errors
    /// [`Error::Io`] when the file system refuses.
    pub fn write(&self, witness: &Witness) -> Result<(), Error> {
        let offset = witness.number % 2 * SLOT as u64;
        self.file
            .write_all_at(&encode(witness)?, offset)
            .map_err(|cause| Error::io("cannot write", &self.path, cause))
    }

    /// Makes the last written witness durable.
    ///
    /// # Errors
    /// [`Error::Io`] when the file system refuses.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|cause| Error::io("cannot sync", &self.path, cause))
    }
}

fn encode(witness: &Witness) -> Result<Vec<u8>, Error> {
    let body = codec::encode(witness)?;
    let mut slot = Vec::with_capacity(SLOT_HEADER + body.len());
    slot.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    slot.extend_from_slice(&checksum(&body));
    slot.extend_from_slice(&body);
    Ok(slot)
}

fn decode(slot: &[u8]) -> Option<Witness> {
    let (len, rest) = slot.split_first_chunk()?;
    let (expected, rest) = rest.split_first_chunk::<8>()?;
    let body = rest.get(..usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    if checksum(body) != *expected {
        return None;
    }
    codec::decode(body).ok()
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(body).into();
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witness(number: u64) -> Witness {
        Witness { number, digest: [u8::try_from(number).unwrap(); 16], ..Witness::of_nothing() }
    }

    #[test]
    fn interrupted_write_leaves_the_witness_before_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Witness::read(dir.path()).unwrap(), None);
        let file = WitnessFile::create(dir.path(), &Witness::of_nothing()).unwrap();
        for number in 1..=5 {
            file.write(&witness(number)).unwrap();
            assert_eq!(Witness::read(dir.path()).unwrap(), Some(witness(number)));
        }
        // The sixth write, to the first slot, is interrupted after 20 bytes.
        file.file.write_all_at(&encode(&witness(6)).unwrap()[..20], 0).unwrap();
        assert_eq!(Witness::read(dir.path()).unwrap(), Some(witness(5)));
        file.file.write_all_at(&[0; 20], SLOT as u64).unwrap();
        assert_eq!(Witness::read(dir.path()).unwrap(), None);
    }

    #[test]
    fn witness_with_all_spaces_fits_its_slot() {
        let counts = (0..=u8::MAX).map(|space| (space, u64::MAX)).collect();
        let full = Witness { number: u64::MAX, at: Timestamp(u64::MAX), digest: [u8::MAX; 16], counts };
        let slot = encode(&full).unwrap();
        assert!(slot.len() <= SLOT, "{}", slot.len());
        assert_eq!(decode(&slot), Some(full));
    }
}
