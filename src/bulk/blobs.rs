//! The blobs that jobs refer to, for the retention of blobs.

use relevo_store::{BlobSet, Error};

use super::Handle;
use super::job::Plan;
use super::source::RowPayload;
use super::storage;

/// Number of rows that are read at once.
const PAGE_ROWS: usize = 1_000;

impl Handle {
    /// Adds every blob that a row of a job refers to, sent or not: failed rows can be retried as long as the job is kept.
    /// Blocks while it reads all rows.
    ///
    /// # Errors
    ///
    /// A record or a source cannot be read.
    pub fn referenced_blobs(&self, found: &mut BlobSet) -> Result<(), Error> {
        let jobs: Vec<_> = self.directory.borrow().values().cloned().collect();
        for job in jobs {
            let record = storage::load_record(&self.store, job.slot)?.filter(|record| record.id == job.id);
            let Some(record) = record else { continue };
            match &record.plan {
                Plan::Text(_) => {}
                Plan::Common(content) => content.blob().into_iter().for_each(|blob| found.insert(blob)),
                Plan::PerRow => self.add_row_blobs(&record, found)?,
            }
        }
        Ok(())
    }

    fn add_row_blobs(&self, record: &storage::JobRecord, found: &mut BlobSet) -> Result<(), Error> {
        let source = self.folders.folder(record.id).source();
        let mut position = record.format.start();
        loop {
            let page = match record.format.page(&source, position, PAGE_ROWS) {
                Ok(page) => page,
                // The job was deleted in the meantime.
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(cause) => {
                    return Err(Error::Io { action: "cannot read", path: source, cause: cause.to_string() });
                }
            };
            if page.rows.is_empty() {
                return Ok(());
            }
            for row in page.rows {
                if let RowPayload::Content(content) = &row.payload {
                    content.blob().into_iter().for_each(|blob| found.insert(blob));
                }
            }
            position = page.next;
        }
    }
}
