//! Files that users sent. WhatsApp Web has no media ids: a file is read with its path and its encryption key. The node's
//! media id encodes both, with the digests that are checked.

use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use url::Url;
use whatsapp_rust::download::{DownloadParams, DownloadWriter, MediaDownloader, MediaType};
use whatsapp_rust::{Client, ErrorChainExt as _, TokioRuntime, anyhow};

use super::transport::WhatsAppConnector;
use relevo_domain::{Failure, MediaKind};
use relevo_provider::{MediaStream, RemoteMedia};

/// One of WhatsApp's media hosts. Messages name it in their URLs, whichever host delivers the file.
const MEDIA_HOST: &str = "https://mmg.whatsapp.net";

/// Maximum length of a path; WhatsApp's paths have about 200 bytes.
const MAX_PATH_BYTES: usize = 400;

/// Maximum length of a media type.
const MAX_MIME_BYTES: usize = 100;

/// Number of chunks of a file that may wait for the reader; the client decrypts some kilobytes at a time.
const CHUNK_CAPACITY: usize = 32;

/// The sender's description of a file at WhatsApp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MediaReference {
    pub kind: MediaKind,
    /// The path, the same on every media host.
    pub path: String,
    /// The encryption key; `None` for files in newsletters, which are not encrypted.
    pub key: Option<Vec<u8>>,
    /// SHA-256 of the encrypted file.
    pub encrypted_sha256: Option<Vec<u8>>,
    /// SHA-256 of the file.
    pub sha256: Vec<u8>,
    /// Size of the file in bytes.
    pub length: u64,
    pub mime: String,
    /// Creation time of the key, in seconds since 1970.
    pub key_timestamp: Option<i64>,
}

impl MediaReference {
    /// The media id: up to about 700 letters, digits, `-` and `_`.
    ///
    /// `None` for a description that does not suffice to download the file.
    pub fn id(&self) -> Option<String> {
        self.check().ok()?;
        let encoded = rmp_serde::to_vec(self).ok()?;
        Some(URL_SAFE_NO_PAD.encode(encoded))
    }

    /// Parses a media id. The caller may have forged it, so all parts are checked.
    ///
    /// # Errors
    ///
    /// The text is no media id of a linked device.
    pub fn parse(id: &str) -> Result<Self, Failure> {
        let invalid = || Failure::permanent("this is no media id of a linked device");
        let encoded = URL_SAFE_NO_PAD.decode(id).map_err(|_| invalid())?;
        let reference: Self = rmp_serde::from_slice(&encoded).map_err(|_| invalid())?;
        reference.check().map_err(|_| invalid())?;
        Ok(reference)
    }

    /// Checks all parts. The path must not be able to change the host of the URL that it is appended to.
    fn check(&self) -> Result<(), ()> {
        let path = self.path.as_bytes();
        let plain = path.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'#' | b'@'));
        let valid_path =
            path.starts_with(b"/") && !path.starts_with(b"//") && plain && path.len() <= MAX_PATH_BYTES;
        let has_32_bytes = |part: &[u8]| part.len() == 32;
        let valid_key = self.key.is_some() == self.encrypted_sha256.is_some()
            && [&self.key, &self.encrypted_sha256].into_iter().flatten().all(|part| has_32_bytes(part));
        let valid =
            valid_path && valid_key && has_32_bytes(&self.sha256) && self.mime.len() <= MAX_MIME_BYTES;
        if valid { Ok(()) } else { Err(()) }
    }

    /// The URL of the encrypted file.
    pub fn url(&self) -> String {
        format!("{MEDIA_HOST}{}", self.path)
    }

    fn params(&self) -> DownloadParams {
        DownloadParams {
            direct_path: self.path.clone(),
            media_key: self.key.clone(),
            file_sha256: self.sha256.clone(),
            file_enc_sha256: self.encrypted_sha256.clone(),
            file_length: self.length,
            media_type: media_type(self.kind),
        }
    }

    fn to_remote_media(&self) -> Result<RemoteMedia, Failure> {
        let url = Url::parse(&self.url());
        Ok(RemoteMedia {
            url: url.map_err(|_| Failure::permanent("the address of the file is invalid"))?,
            mime: self.mime.clone(),
            sha256: Some(STANDARD.encode(&self.sha256)),
            size: Some(self.length),
        })
    }
}

/// WhatsApp's type of a kind of file, on which keys and paths depend.
pub(super) fn media_type(kind: MediaKind) -> MediaType {
    match kind {
        MediaKind::Image => MediaType::Image,
        MediaKind::Video => MediaType::Video,
        MediaKind::Audio => MediaType::Audio,
        MediaKind::Document => MediaType::Document,
        MediaKind::Sticker => MediaType::Sticker,
    }
}

/// Describes a file from its media id alone. The address is that of the encrypted file.
pub(super) fn describe(id: &str) -> Result<RemoteMedia, Failure> {
    MediaReference::parse(id)?.to_remote_media()
}

/// Describes a file and downloads it, decrypted chunk by chunk. Its digest is checked at the end only: the content of a
/// stream that ends with a failure must be discarded.
///
/// Without a connected `client`, WhatsApp's default hosts are used, which suffices for recent files.
pub(super) async fn open(
    connector: &WhatsAppConnector,
    client: Option<Arc<Client>>,
    id: &str,
) -> Result<(RemoteMedia, MediaStream), Failure> {
    let reference = MediaReference::parse(id)?;
    let media = reference.to_remote_media()?;
    let (chunks, mut received) = mpsc::channel(CHUNK_CAPACITY);
    let writer = ChannelWriter { chunks: chunks.clone(), started: false, restarted: false };
    let connector = connector.clone();
    tokio::spawn(async move {
        let outcome = download(&connector, client, &reference, writer).await;
        let _ = chunks.send(DownloadChunk::End(outcome)).await;
    });
    let first = received.recv().await.unwrap_or_else(DownloadChunk::aborted);
    if let DownloadChunk::End(Err(failure)) = first {
        return Err(failure);
    }
    let stream = futures_util::stream::unfold((Some(first), received), |(first, mut received)| async {
        let chunk = match first {
            Some(chunk) => chunk,
            None => received.recv().await.unwrap_or_else(DownloadChunk::aborted),
        };
        match chunk {
            DownloadChunk::Bytes(bytes) => Some((Ok(bytes), (None, received))),
            DownloadChunk::End(Ok(())) => None,
            DownloadChunk::End(Err(failure)) => {
                // The stream ends after a failure.
                received.close();
                Some((Err(failure), (Some(DownloadChunk::End(Ok(()))), received)))
            }
        }
    });
    Ok((media, stream.boxed()))
}

async fn download(
    connector: &WhatsAppConnector,
    client: Option<Arc<Client>>,
    reference: &MediaReference,
    writer: ChannelWriter,
) -> Result<(), Failure> {
    let params = reference.params();
    let outcome = match client {
        Some(client) => client.download_to_writer(&params, writer).await,
        None => {
            let hosts =
                MediaDownloader::with_default_hosts(Arc::new(connector.clone()), Arc::new(TokioRuntime));
            hosts.download_to_writer(&params, writer).await.map_err(anyhow::Error::from)
        }
    };
    outcome.map(drop).map_err(|cause| failure_from_download(&cause))
}

/// The failure of a download. It is never ambiguous, because a download can be repeated.
fn failure_from_download(cause: &anyhow::Error) -> Failure {
    match cause.http_status() {
        Some(status @ (401 | 403 | 404 | 410)) => {
            let text = format!(
                "WhatsApp answered {status}: it no longer has the file; ask the sender to send it again"
            );
            Failure::permanent(text).with_code(i64::from(status))
        }
        _ => Failure::transient(format!("the file could not be fetched from WhatsApp: {cause:#}")),
    }
}

/// A part of a download.
#[derive(Debug)]
enum DownloadChunk {
    Bytes(Bytes),
    End(Result<(), Failure>),
}

impl DownloadChunk {
    /// The end of a download whose task panicked or was aborted.
    fn aborted() -> Self {
        Self::End(Err(Failure::transient("the download was aborted; request the file again")))
    }
}

/// The writer of a download, on a thread that may block. It sends what the client writes to a channel.
struct ChannelWriter {
    chunks: mpsc::Sender<DownloadChunk>,
    started: bool,
    /// The client restarts the download, but chunks of the first attempt were already sent.
    restarted: bool,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.restarted {
            return Err(io::Error::other("the first attempt was already delivered"));
        }
        self.started = true;
        let chunk = DownloadChunk::Bytes(Bytes::copy_from_slice(bytes));
        self.chunks.blocking_send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The client only rewinds: before the first byte and after the last.
impl Seek for ChannelWriter {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(0) => Ok(0),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }
}

impl DownloadWriter for ChannelWriter {
    fn truncate(&mut self, _: u64) -> io::Result<()> {
        self.restarted = self.started;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::FailureKind;

    fn reference() -> MediaReference {
        MediaReference {
            kind: MediaKind::Image,
            path: "/v/t62.7118-24/1234_n.enc?ccb=11-4&oh=01_Q5&oe=67A1&_nc_sid=5e03e0".to_owned(),
            key: Some(vec![1; 32]),
            encrypted_sha256: Some(vec![2; 32]),
            sha256: vec![3; 32],
            length: 4096,
            mime: "image/jpeg".to_owned(),
            key_timestamp: Some(1_763_800_000),
        }
    }

    #[test]
    fn media_id_round_trips_and_is_bounded() {
        let id = reference().id().unwrap();
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{id}");
        assert_eq!(MediaReference::parse(&id).unwrap(), reference());
        let longest = MediaReference { path: format!("/{}", "p".repeat(MAX_PATH_BYTES - 1)), ..reference() };
        assert!(longest.id().unwrap().len() <= 1024);
        let public = MediaReference { key: None, encrypted_sha256: None, ..reference() };
        assert_eq!(MediaReference::parse(&public.id().unwrap()).unwrap(), public);
    }

    #[test]
    fn forged_media_id_is_rejected() {
        let with_path = |path: &str| MediaReference { path: path.to_owned(), ..reference() };
        for invalid in [
            with_path("@evil.example/x"),
            with_path("/x@evil.example"),
            with_path("//evil.example/x"),
            with_path("\\evil.example"),
            with_path("/a b"),
            with_path(""),
            with_path(&"/x".repeat(MAX_PATH_BYTES)),
            MediaReference { key: Some(vec![1; 31]), ..reference() },
            MediaReference { key: None, ..reference() },
            MediaReference { sha256: Vec::new(), ..reference() },
            MediaReference { mime: "m".repeat(1000), ..reference() },
        ] {
            assert_eq!(invalid.id(), None, "{invalid:?}");
            let forged = URL_SAFE_NO_PAD.encode(rmp_serde::to_vec(&invalid).unwrap());
            let failure = MediaReference::parse(&forged).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Permanent, "{invalid:?}");
        }
        for nonsense in ["", "1037543291543636", "🐪", "AAAA"] {
            assert_eq!(describe(nonsense).unwrap_err().kind, FailureKind::Permanent, "{nonsense}");
        }
    }

    #[test]
    fn media_is_described_without_a_request() {
        let media = describe(&reference().id().unwrap()).unwrap();
        assert_eq!(media.url.host_str(), Some("mmg.whatsapp.net"));
        assert_eq!((media.mime.as_str(), media.size), ("image/jpeg", Some(4096)));
        assert_eq!(media.sha256, Some(STANDARD.encode([3; 32])));
    }

    #[tokio::test]
    async fn writer_fails_instead_of_repeating_bytes() {
        let (chunks, mut received) = mpsc::channel(4);
        let mut writer = ChannelWriter { chunks, started: false, restarted: false };
        let task = tokio::task::spawn_blocking(move || {
            writer.truncate(0).unwrap();
            writer.rewind().unwrap();
            writer.write_all(b"one").unwrap();
            writer.truncate(0).unwrap();
            writer.write_all(b"two").unwrap_err()
        });
        assert!(matches!(received.recv().await, Some(DownloadChunk::Bytes(bytes)) if bytes == "one"));
        assert_eq!(task.await.unwrap().to_string(), "the first attempt was already delivered");
        assert!(received.recv().await.is_none());
    }
}
