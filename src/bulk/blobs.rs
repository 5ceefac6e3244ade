//! Which blobs the jobs need.

use relevo_store::{BlobSet, Error};

use super::Handle;
use super::job::Plan;
use super::source::RowPayload;
use super::storage;

/// Rows that are read at once.
const PAGE_ROWS: usize = 1_000;

impl Handle {
    /// Adds every blob that a row of a job may need, sent or not: failed rows can be sent again for as long as the job
    /// is kept. Reads the disk for as long as it takes.
    pub fn referenced_blobs(&self, found: &mut BlobSet) -> Result<(), Error> {
        let known: Vec<_> = self.directory.borrow().values().cloned().collect();
        for job in known {
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
        let mut place = record.format.start();
        loop {
            let page = match record.format.page(&source, place, PAGE_ROWS) {
                Ok(page) => page,
                // Deleted while this read.
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
            place = page.next;
        }
    }
}
