//! The folders of jobs: `jobs/<uuid>/` holds the files of one job, `jobs/.draft-<number>/` the rows of a job that does not
//! exist yet ([`drafts`](super::drafts)). Leftover drafts are deleted when the node starts.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::Error;

/// Prefix of the folders of drafts.
const DRAFT: &str = ".draft-";

/// The folder that holds the folders of all jobs.
#[derive(Debug, Clone)]
pub(super) struct JobFolders {
    root: PathBuf,
    /// The number of the next draft.
    next_draft: Arc<AtomicU64>,
}

/// The folder of one job.
#[derive(Debug, Clone)]
pub(super) struct JobFolder {
    pub(super) path: PathBuf,
}

impl JobFolders {
    /// Creates the folder and deletes leftover drafts.
    pub fn open(data: &Path) -> Result<Self, Error> {
        let root = data.join("jobs");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .and_then(|()| sync_folder(data))
            .map_err(|cause| Error::io("cannot create", &root, cause))?;
        let entries = fs::read_dir(&root).map_err(|cause| Error::io("cannot read", &root, cause))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                remove_folder(&entry.path());
            }
        }
        Ok(Self { root, next_draft: Arc::default() })
    }

    /// The folder of a job.
    pub fn folder(&self, id: Uuid) -> JobFolder {
        JobFolder { path: self.root.join(id.to_string()) }
    }

    /// The ids of the jobs that have a folder.
    pub fn existing_ids(&self) -> Vec<Uuid> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
    }

    /// Creates an empty folder for a draft.
    pub fn create_draft_folder(&self) -> Result<PathBuf, Error> {
        let path = self.root.join(format!("{DRAFT}{}", self.next_draft.fetch_add(1, Ordering::Relaxed)));
        let created = DirBuilder::new().mode(0o700).create(&path);
        created.map_err(|cause| Error::io("cannot create", &path, cause))?;
        Ok(path)
    }

    /// Renames the folder of a draft to that of a job. Blocks until that is durable.
    pub fn adopt(&self, draft: &Path, id: Uuid) -> std::io::Result<()> {
        sync_folder(draft)?;
        fs::rename(draft, self.folder(id).path)?;
        sync_folder(&self.root)
    }

    /// Deletes the files of a job.
    pub fn remove(&self, id: Uuid) {
        remove_folder(&self.folder(id).path);
    }
}

impl JobFolder {
    /// The rows: the uploaded file, or one line of JSON per recipient.
    pub fn source(&self) -> PathBuf {
        self.path.join("source")
    }

    /// One record of fixed width per row.
    pub fn results(&self) -> PathBuf {
        self.path.join("results")
    }

    /// The errors of rows.
    pub fn error_log(&self) -> PathBuf {
        self.path.join("notes")
    }

    /// The index from provider message ids to rows.
    pub fn provider_ids(&self) -> PathBuf {
        self.path.join("names")
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Deletes a folder with its files; an error is logged.
pub(super) fn remove_folder(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %cause, "bulk job folder not deleted");
        }
        _ => {}
    }
}
