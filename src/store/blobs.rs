use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::domain::BlobRef;

use super::folder::write_durably;
use super::{Error, Folder};

/// Media that was accepted with a message: files named by their content, in two levels of folders.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    pub fn open(folder: &Folder) -> Result<Self, Error> {
        let root = folder.path().join("blobs");
        std::fs::create_dir_all(&root).map_err(|cause| Error::io("cannot create", &root, cause))?;
        Ok(Self { root })
    }

    /// Keeps `bytes`; when this answers, they are on the disk. The same content is kept once.
    pub async fn put(&self, bytes: Bytes, mime: &str) -> Result<BlobRef, Error> {
        let (root, mime) = (self.root.clone(), mime.to_owned());
        let task = tokio::task::spawn_blocking(move || put_blocking(&root, &bytes, mime));
        task.await.unwrap_or(Err(Error::Panicked))
    }

    /// The bytes of a blob that was kept.
    pub async fn get(&self, blob: &BlobRef) -> Result<Bytes, Error> {
        let path = path_of(&self.root, &blob.sha256);
        match tokio::fs::read(&path).await {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            Err(cause) => Err(Error::io("cannot read", path, cause)),
        }
    }

    /// The file of a blob that was kept, for reading piece by piece what is too large to hold.
    pub async fn file(&self, blob: &BlobRef) -> Result<tokio::fs::File, Error> {
        let path = path_of(&self.root, &blob.sha256);
        tokio::fs::File::open(&path).await.map_err(|cause| Error::io("cannot read", path, cause))
    }
}

fn put_blocking(root: &Path, bytes: &[u8], mime: String) -> Result<BlobRef, Error> {
    let digest = Sha256::digest(bytes);
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = path_of(root, &sha256);
    let size = bytes.len() as u64;
    let folder = path.parent().unwrap_or(root);
    let known = std::fs::metadata(&path).is_ok_and(|file| file.len() == size);
    let sync = |folder: &Path| std::fs::File::open(folder)?.sync_all();
    let kept = if known {
        // Whoever wrote it may not have come to sync its name yet.
        sync(folder).and_then(|()| sync(root))
    } else {
        std::fs::create_dir_all(folder).and_then(|()| sync(root)).and_then(|()| write_durably(&path, bytes))
    };
    kept.map_err(|cause| Error::io("cannot write", &path, cause))?;
    Ok(BlobRef { sha256, size, mime })
}

fn path_of(root: &Path, sha256: &str) -> PathBuf {
    root.join(sha256.get(..2).unwrap_or("00")).join(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn content_is_kept_once_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let blobs = Blobs::open(&folder).unwrap();
        let first = blobs.put(Bytes::from_static(b"hola"), "text/plain").await.unwrap();
        let again = blobs.put(Bytes::from_static(b"hola"), "text/plain").await.unwrap();
        assert_eq!(first, again);
        assert_eq!(first.sha256, "b221d9dbb083a7f33428d7c2a3c3198ae925614d70210e28716ccaa7cd4ddb79");
        assert_eq!(blobs.get(&first).await.unwrap(), &b"hola"[..]);
    }
}
