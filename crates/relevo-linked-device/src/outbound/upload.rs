//! Uploads of files to WhatsApp. Files are encrypted while they are uploaded; a file from the disk is never completely in
//! memory. A file is uploaded once for many messages.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use url::Url;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::upload::UploadResponse;
use whatsapp_rust::wacore::upload::{MediaEncryptor, UploadSource, encrypt_media_streaming, encrypted_len};
use whatsapp_rust::{Client, anyhow};

use crate::limits;
use crate::media::{MediaReference, media_type};
use relevo_domain::{
    BlobRef, ErrorKind, Failure, FailureKind, FailureScope, Media, MediaKind, MediaSource, mime_essence,
};
use relevo_egress as egress;
use relevo_provider::ProviderResources;

/// Maximum number of cached uploads per instance.
const MAX_CACHED_UPLOADS: usize = 64;
/// Lifetime of a cached upload of a stored file; WhatsApp keeps files for weeks.
const BLOB_UPLOAD_TTL: Duration = Duration::from_secs(12 * 3600);
/// Lifetime of a cached upload from a URL, whose content may change.
const LINK_UPLOAD_TTL: Duration = Duration::from_secs(10 * 60);

/// Maximum number of redirects of a media URL.
const MAX_REDIRECTS: usize = 3;

/// Bytes that are encrypted at a time.
const CHUNK: usize = 64 << 10;

/// The description of an uploaded file in a message.
#[derive(Debug, Clone)]
pub(crate) struct UploadedMedia {
    pub file: MediaReference,
    /// Allows phones to play the file while it is loading.
    pub sidecar: Option<Vec<u8>>,
}

/// The uploads of one instance. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Uploads(Arc<Mutex<HashMap<UploadKey, CachedUpload>>>);

/// The content and the use of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct UploadKey {
    kind: MediaKind,
    voice: bool,
    source: SourceKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SourceKey {
    /// Content hash and media type.
    Blob(String, String),
    Link(Url),
}

/// An upload that has started. Other messages with the same file wait for it.
struct CachedUpload {
    started_at: Instant,
    uploaded: Arc<OnceCell<UploadedMedia>>,
}

impl Uploads {
    /// Returns the uploaded file of a message; uploads it if no upload is cached. No failure is ambiguous, because an
    /// upload can be repeated.
    pub async fn upload(
        &self,
        client: &Client,
        shared: &ProviderResources,
        media: &Media,
    ) -> Result<UploadedMedia, Failure> {
        let source = match &media.source {
            MediaSource::ProviderId(id) => {
                return Ok(UploadedMedia { file: MediaReference::parse(id)?, sidecar: None });
            }
            MediaSource::Blob(blob) => SourceKey::Blob(blob.sha256.clone(), blob.mime.clone()),
            MediaSource::Link(url) => SourceKey::Link(url.clone()),
        };
        let cell = self.cached_upload(UploadKey { kind: media.kind, voice: media.voice, source });
        cell.get_or_try_init(|| upload(client, shared, media)).await.cloned()
    }

    /// The cell of an upload, new or cached. A full cache evicts its oldest upload.
    fn cached_upload(&self, key: UploadKey) -> Arc<OnceCell<UploadedMedia>> {
        let mut uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.retain(|key, upload| upload.started_at.elapsed() < key.ttl());
        if let Some(upload) = uploads.get(&key) {
            return Arc::clone(&upload.uploaded);
        }
        if uploads.len() >= MAX_CACHED_UPLOADS {
            let oldest =
                uploads.iter().min_by_key(|(_, upload)| upload.started_at).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| uploads.remove(&oldest));
        }
        let uploaded = Arc::<OnceCell<_>>::default();
        uploads.insert(key, CachedUpload { started_at: Instant::now(), uploaded: Arc::clone(&uploaded) });
        uploaded
    }
}

impl UploadKey {
    fn ttl(&self) -> Duration {
        match self.source {
            SourceKey::Blob(..) => BLOB_UPLOAD_TTL,
            SourceKey::Link(_) => LINK_UPLOAD_TTL,
        }
    }
}

async fn upload(
    client: &Client,
    shared: &ProviderResources,
    media: &Media,
) -> Result<UploadedMedia, Failure> {
    let (plain, mime) = match &media.source {
        MediaSource::Blob(blob) => open_blob(shared, blob).await?,
        MediaSource::Link(url) => fetch_link(shared, media, url).await?,
        MediaSource::ProviderId(_) => return Err(Failure::permanent("the file is already at WhatsApp")),
    };
    let kind = media_type(media.kind);
    let encryption = tokio::task::spawn_blocking(move || encrypt_for_upload(plain, kind));
    let encrypted = encryption.await.unwrap_or_else(|_| Err(anyhow::anyhow!("the encryption task panicked")));
    let (info, source) = encrypted
        .map_err(|cause| limited_transient(format!("the file could not be encrypted: {cause:#}")))?;
    let response = client.upload_stream(source, info, kind).await;
    let response = response.map_err(|cause| {
        limited_transient(format!("the file could not be uploaded to WhatsApp: {cause:#}"))
    })?;
    Ok(uploaded_media(media, mime, response))
}

fn uploaded_media(media: &Media, mime: String, response: UploadResponse) -> UploadedMedia {
    let voice = media.kind == MediaKind::Audio && media.voice;
    let file = MediaReference {
        kind: media.kind,
        path: response.direct_path,
        key: Some(response.media_key.to_vec()),
        encrypted_sha256: Some(response.file_enc_sha256.to_vec()),
        sha256: response.file_sha256.to_vec(),
        length: response.file_length,
        // Phones play voice notes of this media type only.
        mime: if voice { "audio/ogg; codecs=opus".to_owned() } else { mime },
        key_timestamp: Some(response.media_key_timestamp),
    };
    UploadedMedia { file, sidecar: response.streaming_sidecar }
}

async fn open_blob(shared: &ProviderResources, blob: &BlobRef) -> Result<(PlaintextFile, String), Failure> {
    let file = shared.blobs.file(blob).await;
    let file =
        file.map_err(|cause| limited_transient(format!("the message's file is not readable: {cause}")))?;
    Ok((PlaintextFile::File(file.into_std().await, blob.size), blob.mime.clone()))
}

async fn fetch_link(
    shared: &ProviderResources,
    media: &Media,
    url: &Url,
) -> Result<(PlaintextFile, String), Failure> {
    let kind = media.kind;
    let limit = usize::try_from(limits::max_size(kind)).unwrap_or(usize::MAX);
    let fetched = shared
        .egress
        .get_bounded(url, limit, MAX_REDIRECTS)
        .await
        .map_err(|cause| failure_from_fetch(&cause))?;
    if fetched.bytes.is_empty() {
        return Err(Failure::permanent("the media address leads to an empty file"));
    }
    let mime = resolve_mime_type(kind, fetched.content_type);
    let format = mime_essence(&mime);
    limits::check_format(kind, media.voice, &format)
        .map_err(|reason| Failure::permanent(format!("the file at the media address {reason}")))?;
    Ok((PlaintextFile::Bytes(fetched.bytes), mime))
}

/// The media type that the server names, or the default of the kind if it names none.
fn resolve_mime_type(kind: MediaKind, content_type: Option<String>) -> String {
    let content_type = content_type.filter(|mime| {
        !matches!(mime_essence(mime).as_str(), "" | "application/octet-stream" | "binary/octet-stream")
    });
    let default = match kind {
        MediaKind::Image => "image/jpeg",
        MediaKind::Video => "video/mp4",
        MediaKind::Audio => "audio/ogg",
        MediaKind::Document => "application/octet-stream",
        MediaKind::Sticker => "image/webp",
    };
    content_type.unwrap_or_else(|| default.to_owned())
}

fn failure_from_fetch(cause: &egress::Error) -> Failure {
    let text = format!("the media address could not be fetched: {cause}");
    match cause.kind() {
        ErrorKind::Unavailable | ErrorKind::Internal => limited_transient(text),
        _ => Failure::permanent(text),
    }
}

/// A failure before the message was sent that may be permanent; it is retried a few times.
fn limited_transient(text: String) -> Failure {
    Failure::new(FailureKind::Transient { max_attempts: Some(5) }, FailureScope::Message, text)
}

/// A file before it is encrypted.
enum PlaintextFile {
    Bytes(Bytes),
    /// With its size in bytes.
    File(File, u64),
}

impl PlaintextFile {
    fn len(&self) -> u64 {
        match self {
            PlaintextFile::Bytes(bytes) => bytes.len() as u64,
            PlaintextFile::File(_, size) => *size,
        }
    }

    /// A reader from the beginning of the file. Readers share the position of the file; they are used one after another.
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            PlaintextFile::Bytes(bytes) => Ok(Box::new(bytes.clone().reader())),
            PlaintextFile::File(file, _) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                Ok(Box::new(file))
            }
        }
    }
}

/// A file that is encrypted again, with the same key, whenever it is read. The upload needs the digests before the first
/// byte, and this avoids an encrypted copy.
struct EncryptedUpload {
    plain: PlaintextFile,
    key: [u8; 32],
    kind: MediaType,
}

/// Reads the file once to compute its digests. Blocks.
fn encrypt_for_upload(
    plain: PlaintextFile,
    kind: MediaType,
) -> anyhow::Result<(whatsapp_rust::wacore::upload::EncryptedMediaInfo, EncryptedUpload)> {
    let info = encrypt_media_streaming(plain.reader()?, io::sink(), kind)?;
    let key = info.media_key;
    Ok((info, EncryptedUpload { plain, key, kind }))
}

impl UploadSource for EncryptedUpload {
    fn len(&self) -> u64 {
        let plain = usize::try_from(self.plain.len()).unwrap_or(usize::MAX);
        encrypted_len(plain) as u64
    }

    fn reader_from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let encryptor = MediaEncryptor::with_key(self.key, self.kind).map_err(io::Error::other)?;
        let mut reader = EncryptReader {
            plain: self.plain.reader()?,
            encryptor: Some(encryptor),
            encrypted: Vec::new(),
            read: 0,
        };
        io::copy(&mut reader.by_ref().take(offset), &mut io::sink())?;
        Ok(Box::new(reader))
    }
}

/// Encrypts a file while it is read.
struct EncryptReader {
    plain: Box<dyn Read + Send>,
    /// `None` after the end of the file.
    encryptor: Option<MediaEncryptor>,
    /// The current encrypted chunk.
    encrypted: Vec<u8>,
    /// Number of bytes of the chunk that were read.
    read: usize,
}

impl EncryptReader {
    /// Encrypts the next chunk, or the trailer after the last one.
    fn fill(&mut self) -> io::Result<()> {
        let Some(mut encryptor) = self.encryptor.take() else { return Ok(()) };
        self.encrypted.clear();
        self.read = 0;
        let mut chunk = vec![0; CHUNK];
        let length = self.plain.read(&mut chunk)?;
        if length == 0 {
            encryptor.finalize(&mut self.encrypted).map_err(io::Error::other)?;
        } else {
            encryptor.update(chunk.get(..length).unwrap_or_default(), &mut self.encrypted);
            self.encryptor = Some(encryptor);
        }
        Ok(())
    }
}

impl Read for EncryptReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.encrypted.len() && self.encryptor.is_some() {
            self.fill()?;
        }
        let count = self.encrypted.get(self.read..).unwrap_or_default().read(into)?;
        self.read += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use whatsapp_rust::download::DownloadUtils;

    use super::*;

    fn read(source: &EncryptedUpload, offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        source.reader_from(offset).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn encrypted_upload_is_identical_from_any_offset() {
        let content: Vec<u8> = (0..200_001_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let size = content.len() as u64;
        for plain in [PlaintextFile::Bytes(Bytes::from(content.clone())), PlaintextFile::File(file, size)] {
            let (info, source) = encrypt_for_upload(plain, MediaType::Video).unwrap();
            let mut whole = read(&source, 0);
            assert_eq!((whole.len() as u64, info.file_length), (source.len(), size));
            assert_eq!(read(&source, 100_000), whole.get(100_000..).unwrap());
            assert_eq!(read(&source, source.len()), [0; 0]);
            assert!(info.streaming_sidecar.is_some());
            DownloadUtils::verify_and_decrypt_in_place(&mut whole, &info.media_key, MediaType::Video)
                .unwrap();
            assert_eq!(whole, content);
        }
    }

    #[test]
    fn missing_content_type_falls_back_to_default() {
        let named = |kind, named: Option<&str>| resolve_mime_type(kind, named.map(str::to_owned));
        assert_eq!(named(MediaKind::Image, Some("image/png")), "image/png");
        assert_eq!(named(MediaKind::Image, Some("application/octet-stream")), "image/jpeg");
        assert_eq!(named(MediaKind::Audio, None), "audio/ogg");
    }

    #[tokio::test(start_paused = true)]
    async fn upload_is_cached_until_its_ttl() {
        let uploads = Uploads::default();
        let key = |n: usize| UploadKey {
            kind: MediaKind::Image,
            voice: false,
            source: SourceKey::Blob(n.to_string(), "image/png".to_owned()),
        };
        let first = uploads.cached_upload(key(0));
        assert!(Arc::ptr_eq(&first, &uploads.cached_upload(key(0))));
        assert!(!Arc::ptr_eq(&first, &uploads.cached_upload(key(1))));
        tokio::time::advance(BLOB_UPLOAD_TTL).await;
        assert!(!Arc::ptr_eq(&first, &uploads.cached_upload(key(0))));
        for n in 0..=MAX_CACHED_UPLOADS {
            uploads.cached_upload(key(n));
        }
        assert_eq!(uploads.0.lock().unwrap().len(), MAX_CACHED_UPLOADS);
    }
}
