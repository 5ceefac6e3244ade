//! The page table: the snapshot, brought up to date by the log behind it.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use super::RecoveryError;
use super::format::{
    Lsn, MAX_MESSAGE_HEADER, MessageKind, SEGMENT_HEADER, SEGMENT_SIZE, SIZE, segment_start,
};
use super::log::{LogReader, PageMessage};
use super::snapshot::{PageState, Snapshot};

/// Upper limit of page numbers (sled, `constants.rs`). A higher number is damage; the table is an array.
const MAX_PAGES: u64 = 1 << 32;

/// Where every page is.
#[derive(Debug)]
pub(super) struct PageTable(Vec<PageState>);

impl PageTable {
    /// Recovers the table as sled does when it opens the folder.
    pub fn recover(file: &File, db: &Path, snapshot: Option<Snapshot>) -> Result<Self, RecoveryError> {
        let Snapshot { stable_lsn, pages } = snapshot.unwrap_or_default();
        let mut table = Self(pages);
        table.replay(file, db, stable_lsn)?;
        table.check()?;
        Ok(table)
    }

    /// Recovers the table as far as the log can be read.
    pub fn recover_readable(
        file: &File,
        db: &Path,
        snapshot: Option<Snapshot>,
    ) -> Result<Self, RecoveryError> {
        let Snapshot { stable_lsn, pages } = snapshot.unwrap_or_default();
        let mut table = Self(pages);
        match table.replay(file, db, stable_lsn) {
            Err(RecoveryError::Damaged(cause)) => {
                tracing::warn!(%cause, "the database's log cannot be read to its end");
            }
            replayed => replayed?,
        }
        Ok(table)
    }

    /// Applies the log behind the snapshot.
    fn replay(&mut self, file: &File, db: &Path, stable_lsn: Option<Lsn>) -> Result<(), RecoveryError> {
        let mut log = LogReader::new(file, db, stable_lsn.unwrap_or(0))?;
        while let Some(message) = log.next()? {
            let lsn = message.location.lsn;
            if lsn < stable_lsn.unwrap_or(-1) {
                continue;
            }
            if log.max_lsn().is_some_and(|max| lsn >= max) {
                return Err(RecoveryError::damaged(format!(
                    "the log has a message behind its end, at {lsn}"
                )));
            }
            self.apply(message)?;
        }
        check_end(&log, stable_lsn)
    }

    /// The state of a page; none when the table does not have it.
    pub fn get(&self, page: u64) -> Option<&PageState> {
        self.0.get(usize::try_from(page).ok()?)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn apply(&mut self, message: PageMessage) -> Result<(), RecoveryError> {
        let PageMessage { kind, page, location } = message;
        let index = match usize::try_from(page) {
            Ok(index) if page < MAX_PAGES => index,
            _ => return Err(RecoveryError::damaged(format!("the log has a page {page}"))),
        };
        let is_new = self.0.len() <= index;
        if is_new {
            self.0.resize(index + 1, PageState::Uninitialized);
        }
        let Some(state) = self.0.get_mut(index) else { return Ok(()) };
        match (kind, state) {
            (MessageKind::Free, state) => *state = PageState::Free(location),
            (MessageKind::Link, PageState::Present { base, links }) => {
                if links.last().unwrap_or(base).lsn < location.lsn {
                    links.push(location);
                }
            }
            // The page itself was written again in a later segment.
            (MessageKind::Link, _) => {
                if is_new {
                    self.0.pop();
                }
            }
            (_, state) => *state = PageState::Present { base: location, links: Vec::new() },
        }
        Ok(())
    }

    /// What sled requires of a table before it uses it; it panics otherwise.
    fn check(&self) -> Result<(), RecoveryError> {
        let mut segments: HashMap<u64, Lsn> = HashMap::new();
        for (page, state) in self.0.iter().enumerate() {
            let (first, links) = match state {
                PageState::Uninitialized => {
                    return Err(RecoveryError::damaged(format!("the page {page} is missing from the log")));
                }
                PageState::Free(location) => (location, [].as_slice()),
                PageState::Present { base, links } => (base, links.as_slice()),
            };
            for location in std::iter::once(first).chain(links) {
                let start = segment_start(location.lsn);
                let known = *segments.entry(location.offset / SEGMENT_SIZE).or_insert(start);
                if known != start {
                    let offset = location.offset;
                    return Err(RecoveryError::damaged(format!(
                        "the segment that holds a part of the page {page}, at {offset}, was replaced"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Checks where the log ends against the snapshot.
fn check_end(log: &LogReader, stable_lsn: Option<Lsn>) -> Result<(), RecoveryError> {
    let Some(end) = log.position() else { return Ok(()) };
    let stable = stable_lsn.unwrap_or(0);
    let progress = end % SIZE;
    let is_plausible = progress >= SEGMENT_HEADER as Lsn || (progress == 0 && !log.is_in_segment());
    let is_full = progress + MAX_MESSAGE_HEADER as Lsn >= SIZE;
    let reached = if is_full { segment_start(end) + SIZE } else { end };
    if is_plausible && reached >= stable {
        return Ok(());
    }
    Err(RecoveryError::damaged(format!(
        "the log ends at {reached}, before its snapshot, which is of {stable}"
    )))
}
