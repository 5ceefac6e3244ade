//! Drafts: the rows of a job that does not exist yet, written and checked while the request arrives. A draft is deleted
//! when it is dropped, unless a job was created from it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use relevo_domain::{Content, RecipientParser};
use relevo_recipients_file::{BadRow, Checker, FileSummary, UnusualRow};

use super::error_log::ErrorLog;
use super::folders::{JobFolder, JobFolders, remove_folder};
use super::provider_id_index::ProviderIdIndex;
use super::results::ResultFile;
use super::source::SourceFormat;
use super::{Error, json_lines};

/// Size of the pieces in which a file is read, in bytes.
const READ_SIZE: usize = 64 << 10;

impl JobFolders {
    /// Creates a draft for a file of up to `max_rows` rows.
    pub fn create_upload(&self, max_rows: u32, recipients: RecipientParser) -> Result<FileUpload, Error> {
        let folder = DraftFolder(self.create_draft_folder()?);
        let file = create_source(&folder)?;
        let inner = Some((SourceWriter::new(file), Checker::new(max_rows, recipients)));
        Ok(FileUpload { folder, inner })
    }

    /// Creates a draft for up to `max_rows` recipients of one request.
    pub fn create_list(&self, max_rows: u32) -> Result<RecipientListWriter, Error> {
        let folder = DraftFolder(self.create_draft_folder()?);
        let file = create_source(&folder)?;
        Ok(RecipientListWriter {
            folder,
            file: std::io::BufWriter::with_capacity(64 << 10, SourceWriter::new(file)),
            total: 0,
            max_rows,
        })
    }
}

fn create_source(folder: &DraftFolder) -> Result<File, Error> {
    let path = folder.0.join("source");
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
    file.map_err(|cause| Error::io("cannot create", &path, cause))
}

/// The file of a source, with the digest of what was written to it.
#[derive(Debug)]
struct SourceWriter {
    file: File,
    hasher: Sha256,
}

impl SourceWriter {
    fn new(file: File) -> Self {
        Self { file, hasher: Sha256::new() }
    }

    /// Blocks until the file is durable; returns its SHA-256.
    fn finish(self) -> std::io::Result<[u8; 32]> {
        self.file.sync_all()?;
        Ok(self.hasher.finalize().into())
    }
}

impl std::io::Write for SourceWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The folder of a draft. Deleted on drop, unless it was renamed to the folder of a job.
#[derive(Debug)]
struct DraftFolder(PathBuf);

impl Drop for DraftFolder {
    fn drop(&mut self) {
        if self.0.exists() {
            remove_folder(&self.0);
        }
    }
}

/// Writes the recipients of one request to a draft. Its methods block; the recipients of one request are few.
#[derive(Debug)]
pub struct RecipientListWriter {
    folder: DraftFolder,
    file: std::io::BufWriter<SourceWriter>,
    total: u32,
    max_rows: u32,
}

impl RecipientListWriter {
    /// Adds a recipient as the caller spells it, with the recipient's own content.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyRows`] before a row beyond the limit is written; the disk cannot be written.
    pub fn push(&mut self, to: &str, content: Option<&Content>) -> Result<(), Error> {
        if self.total >= self.max_rows {
            return Err(Error::TooManyRows { limit: self.max_rows });
        }
        let written = json_lines::encode_line(to, content).and_then(|line| self.file.write_all(&line));
        written.map_err(|cause| Error::io("cannot write to", &self.folder.0, cause))?;
        self.total = self.total.saturating_add(1);
        Ok(())
    }

    /// Ends the list. Blocks until it is durable.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`]; the disk cannot be written.
    pub fn finish(self) -> Result<JobDraft, Error> {
        if self.total == 0 {
            return Err(Error::Empty);
        }
        let file = self.file.into_inner().map_err(|cause| cause.into_error());
        let sha256 = file
            .and_then(SourceWriter::finish)
            .map_err(|cause| Error::io("cannot write to", &self.folder.0, cause))?;
        Ok(JobDraft {
            folder: self.folder,
            format: SourceFormat::Lines,
            sha256,
            total: self.total,
            bad: 0,
            bad_sample: Vec::new(),
            unusual: 0,
            unusual_sample: Vec::new(),
        })
    }
}

/// Writes an uploaded file to a draft and checks it on the way.
#[derive(Debug)]
pub struct FileUpload {
    folder: DraftFolder,
    /// `None` while a blocking thread uses it, and after an error.
    inner: Option<(SourceWriter, Checker)>,
}

impl FileUpload {
    /// Checks and writes the next piece of the file.
    ///
    /// # Errors
    ///
    /// The reason why the whole file is refused, as early as possible; the disk cannot be written.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let Some((mut file, mut checker)) = self.inner.take() else { return Err(Error::Empty) };
        let path = self.folder.0.clone();
        let task = tokio::task::spawn_blocking(move || {
            checker.push(&bytes)?;
            file.write_all(&bytes).map_err(|cause| Error::io("cannot write to", &path, cause))?;
            Ok((file, checker))
        });
        self.inner = Some(task.await.unwrap_or(Err(Error::Store(relevo_store::Error::Panicked)))?);
        Ok(())
    }

    /// Ends the file. When this returns, the file is durable.
    ///
    /// # Errors
    ///
    /// The reason why the whole file is refused; the disk cannot be written.
    pub async fn finish(mut self) -> Result<JobDraft, Error> {
        let Some((file, checker)) = self.inner.take() else { return Err(Error::Empty) };
        let path = self.folder.0.clone();
        let task = tokio::task::spawn_blocking(move || {
            let checked = checker.finish()?;
            let sha256 = file.finish().map_err(|cause| Error::io("cannot write to", &path, cause))?;
            Ok((checked, sha256))
        });
        let (checked, sha256) = task.await.unwrap_or(Err(Error::Store(relevo_store::Error::Panicked)))?;
        Ok(JobDraft::of_file(self.folder, checked, sha256))
    }
}

/// Checks a file on the disk. Blocks.
fn check_file(path: &Path, recipients: RecipientParser) -> Result<FileSummary, Error> {
    let io = |cause| Error::io("cannot read", path, cause);
    let mut file = File::open(path).map_err(io)?;
    let mut checker = Checker::new(relevo_recipients_file::MAX_ROWS, recipients);
    let mut piece = vec![0; READ_SIZE];
    loop {
        let length = file.read(&mut piece).map_err(io)?;
        if length == 0 {
            return Ok(checker.finish()?);
        }
        checker.push(piece.get(..length).unwrap_or_default())?;
    }
}

/// The durable rows of a job that does not exist yet. Deleted on drop, unless a job was created from it.
#[derive(Debug)]
pub struct JobDraft {
    folder: DraftFolder,
    pub(super) format: SourceFormat,
    /// SHA-256 of the file with the rows.
    pub(super) sha256: [u8; 32],
    pub(super) total: u32,
    bad: u32,
    bad_sample: Vec<BadRow>,
    unusual: u32,
    unusual_sample: Vec<UnusualRow>,
}

impl JobDraft {
    /// The file with the rows, before the job exists.
    pub(super) fn source(&self) -> PathBuf {
        self.folder.0.join("source")
    }

    /// The number of rows of an uploaded file whose phone number is bad, and the first of them. For a list both are empty:
    /// its phone numbers are checked when the job runs.
    pub fn bad(&self) -> (u32, &[BadRow]) {
        (self.bad, &self.bad_sample)
    }

    /// The number of rows of an uploaded file whose phone number is outside the plan of its country, and the first of
    /// them. For a list both are empty.
    pub fn unusual(&self) -> (u32, &[UnusualRow]) {
        (self.unusual, &self.unusual_sample)
    }

    /// The number of rows, including the bad ones.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The draft with recipients that `recipients` reads. Checks an uploaded file again; a list is as it was.
    ///
    /// # Errors
    ///
    /// The reason why the whole file is refused; the disk cannot be read.
    pub async fn read_again(self, recipients: RecipientParser) -> Result<Self, Error> {
        match &self.format {
            SourceFormat::File(format) if format.recipients != recipients => {}
            SourceFormat::File(_) | SourceFormat::Lines => return Ok(self),
        }
        let task = tokio::task::spawn_blocking(move || {
            let path = self.source();
            let checked = check_file(&path, recipients)?;
            Ok(Self::of_file(self.folder, checked, self.sha256))
        });
        task.await.unwrap_or(Err(Error::Store(relevo_store::Error::Panicked)))
    }

    fn of_file(folder: DraftFolder, checked: FileSummary, sha256: [u8; 32]) -> Self {
        let FileSummary { format, rows, bad, bad_sample, unusual, unusual_sample } = checked;
        let format = SourceFormat::File(format);
        Self { folder, format, sha256, total: rows, bad, bad_sample, unusual, unusual_sample }
    }

    /// Turns the draft into the folder of a job. Blocks until that is durable.
    pub(super) fn persist(self, folders: &JobFolders, id: Uuid) -> Result<(), Error> {
        let draft = JobFolder { path: self.folder.0.clone() };
        let created = ResultFile::create(&draft.results())
            .and_then(|_| ErrorLog::create(&draft.error_log()))
            .and_then(|_| ProviderIdIndex::create(&draft.provider_ids(), self.total))
            .and_then(|_| folders.adopt(&draft.path, id));
        created.map_err(|cause| Error::io("cannot create", &folders.folder(id).path, cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::bulk::source::SourcePosition;

    #[test]
    fn draft_becomes_a_job_or_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = JobFolders::open(dir.path()).unwrap();
        let mut list = jobs.create_list(2).unwrap();
        list.push("573001234567", None).unwrap();
        let draft = list.finish().unwrap();
        let id = Uuid::from_u128(7);
        draft.persist(&jobs, id).unwrap();
        assert_eq!(jobs.existing_ids(), [id]);
        let page = SourceFormat::Lines.page(&jobs.folder(id).source(), SourcePosition::START, 9).unwrap();
        assert_eq!(page.rows.len(), 1);

        let mut dropped = jobs.create_list(2).unwrap();
        dropped.push("573001234567", None).unwrap();
        drop(dropped.finish().unwrap());
        assert_eq!(fs::read_dir(dir.path().join("jobs")).unwrap().count(), 1);
        jobs.remove(id);
        assert!(jobs.existing_ids().is_empty());
    }

    #[test]
    fn leftover_drafts_are_deleted_on_open() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = JobFolders::open(dir.path()).unwrap();
        std::mem::forget(jobs.create_list(2).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("jobs")).unwrap().count(), 1);
        JobFolders::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("jobs")).unwrap().count(), 0);
    }

    #[test]
    fn list_is_limited_to_max_rows() {
        let dir = tempfile::tempdir().unwrap();
        let mut list = JobFolders::open(dir.path()).unwrap().create_list(2).unwrap();
        list.push("573001234567", None).unwrap();
        list.push("573001234568", None).unwrap();
        let refused = list.push("573001234569", None);
        assert!(matches!(refused, Err(Error::TooManyRows { limit: 2 })));
        assert_eq!(list.finish().unwrap().total(), 2);
    }

    #[test]
    fn empty_list_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = JobFolders::open(dir.path()).unwrap();
        assert!(matches!(jobs.create_list(2).unwrap().finish(), Err(Error::Empty)));
    }
}
