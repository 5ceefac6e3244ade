//! Files that users sent. WhatsApp Web has no ids for them: whoever knows where a file is and the key that it is
//! encrypted with can read it. Both, and what there is to check, make up the id that the node gives out.

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

/// One of WhatsApp's hosts of media; which of them gives a file out does not matter to where it is said to be.
const MEDIA_HOST: &str = "https://mmg.whatsapp.net";

/// The longest path that is believed, in bytes; WhatsApp's have about 200.
const MAX_PATH_BYTES: usize = 400;

/// The longest media type that is believed.
const MAX_MIME_BYTES: usize = 100;

/// Pieces of a file that may wait for whoever reads it; the client decrypts some kilobytes at a time.
const CHUNK_CAPACITY: usize = 32;

/// A file at WhatsApp, as its sender described it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MediaReference {
    pub kind: MediaKind,
    /// On every host of media.
    pub path: String,
    /// Not there in newsletters, whose files everybody may read.
    pub key: Option<Vec<u8>>,
    /// SHA-256 of the encrypted file.
    pub encrypted_sha256: Option<Vec<u8>>,
    /// SHA-256 of the file.
    pub sha256: Vec<u8>,
    /// Of the file, in bytes.
    pub length: u64,
    pub mime: String,
    /// When the key was made, in seconds since 1970.
    pub key_timestamp: Option<i64>,
}

impl MediaReference {
    /// The id that the node gives out: up to about 700 letters, digits, `-` and `_`.
    ///
    /// `None` for what nobody could fetch.
    pub fn id(&self) -> Option<String> {
        self.check().ok()?;
        let parts = rmp_serde::to_vec(self).ok()?;
        Some(URL_SAFE_NO_PAD.encode(parts))
    }

    /// Reads an id, which anybody may have made up.
    pub fn parse(id: &str) -> Result<Self, Failure> {
        let unknown = || Failure::permanent("this is no media id of a linked device");
        let parts = URL_SAFE_NO_PAD.decode(id).map_err(|_| unknown())?;
        let reference: Self = rmp_serde::from_slice(&parts).map_err(|_| unknown())?;
        reference.check().map_err(|_| unknown())?;
        Ok(reference)
    }

    /// What follows the host in an address must not be able to name another one.
    fn check(&self) -> Result<(), ()> {
        let path = self.path.as_bytes();
        let plain = path.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'#' | b'@'));
        let digest = |digest: &[u8]| digest.len() == 32;
        let sealed = self.key.is_some() == self.encrypted_sha256.is_some()
            && [&self.key, &self.encrypted_sha256].into_iter().flatten().all(|part| digest(part));
        let good = path.starts_with(b"/")
            && !path.starts_with(b"//")
            && plain
            && path.len() <= MAX_PATH_BYTES
            && digest(&self.sha256)
            && sealed
            && self.mime.len() <= MAX_MIME_BYTES;
        if good { Ok(()) } else { Err(()) }
    }

    /// Where the encrypted file is.
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
            url: url.map_err(|_| Failure::permanent("the address of the file makes no sense"))?,
            mime: self.mime.clone(),
            sha256: Some(STANDARD.encode(&self.sha256)),
            size: Some(self.length),
        })
    }
}

/// WhatsApp's word for a kind of file: its keys and its paths depend on it.
pub(super) fn media_type(kind: MediaKind) -> MediaType {
    match kind {
        MediaKind::Image => MediaType::Image,
        MediaKind::Video => MediaType::Video,
        MediaKind::Audio => MediaType::Audio,
        MediaKind::Document => MediaType::Document,
        MediaKind::Sticker => MediaType::Sticker,
    }
}

/// What is known of a file; asks nobody. Its address is that of the encrypted file.
pub(super) fn describe(id: &str) -> Result<RemoteMedia, Failure> {
    MediaReference::parse(id)?.to_remote_media()
}

/// The same, and the file itself, decrypted as it arrives. Whether it is what its sender made can be told at its end
/// only: a stream that ends with a failure was worth nothing.
///
/// Without a connected `client`, WhatsApp's usual hosts are asked, which is enough for files that are not old.
pub(super) async fn open(
    road: &WhatsAppConnector,
    client: Option<Arc<Client>>,
    id: &str,
) -> Result<(RemoteMedia, MediaStream), Failure> {
    let reference = MediaReference::parse(id)?;
    let media = reference.to_remote_media()?;
    let (pieces, mut received) = mpsc::channel(CHUNK_CAPACITY);
    let pipe = ChannelWriter { chunks: pieces.clone(), started: false, restarted: false };
    let road = road.clone();
    tokio::spawn(async move {
        let outcome = fetch(&road, client, &reference, pipe).await;
        let _ = pieces.send(DownloadChunk::End(outcome)).await;
    });
    let first = received.recv().await.unwrap_or_else(DownloadChunk::aborted);
    if let DownloadChunk::End(Err(failure)) = first {
        return Err(failure);
    }
    let rest = futures_util::stream::unfold((Some(first), received), |(first, mut received)| async {
        let piece = match first {
            Some(piece) => piece,
            None => received.recv().await.unwrap_or_else(DownloadChunk::aborted),
        };
        match piece {
            DownloadChunk::Bytes(bytes) => Some((Ok(bytes), (None, received))),
            DownloadChunk::End(Ok(())) => None,
            DownloadChunk::End(Err(failure)) => {
                // Nothing comes after a failure.
                received.close();
                Some((Err(failure), (Some(DownloadChunk::End(Ok(()))), received)))
            }
        }
    });
    Ok((media, rest.boxed()))
}

async fn fetch(
    road: &WhatsAppConnector,
    client: Option<Arc<Client>>,
    reference: &MediaReference,
    pipe: ChannelWriter,
) -> Result<(), Failure> {
    let params = reference.params();
    let fetched = match client {
        Some(client) => client.download_to_writer(&params, pipe).await,
        None => {
            let hosts = MediaDownloader::with_default_hosts(Arc::new(road.clone()), Arc::new(TokioRuntime));
            hosts.download_to_writer(&params, pipe).await.map_err(anyhow::Error::from)
        }
    };
    fetched.map(drop).map_err(|cause| failure_from_download(&cause))
}

/// Asking again does no harm, so no failure is ambiguous.
fn failure_from_download(cause: &anyhow::Error) -> Failure {
    match cause.http_status() {
        Some(status @ (401 | 403 | 404 | 410)) => {
            let said =
                format!("WhatsApp answered {status}: it has the file no longer; ask its sender for it again");
            Failure::permanent(said).with_code(i64::from(status))
        }
        _ => Failure::transient(format!("the file could not be fetched from WhatsApp: {cause:#}")),
    }
}

/// What arrives of a file.
#[derive(Debug)]
enum DownloadChunk {
    Bytes(Bytes),
    End(Result<(), Failure>),
}

impl DownloadChunk {
    /// Whoever fetched the file vanished.
    fn aborted() -> Self {
        Self::End(Err(Failure::transient("the file was not fetched to its end; ask again")))
    }
}

/// Where the client writes a file to, on a thread that may block.
struct ChannelWriter {
    chunks: mpsc::Sender<DownloadChunk>,
    started: bool,
    /// The client wants to begin again, and what it wrote cannot be taken back.
    restarted: bool,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.restarted {
            return Err(io::Error::other("the first attempt was read already"));
        }
        self.started = true;
        let piece = DownloadChunk::Bytes(Bytes::copy_from_slice(bytes));
        self.chunks.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The client rewinds before the first byte and after the last, and never looks back in between.
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
        for wrong in [
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
            assert_eq!(wrong.id(), None, "{wrong:?}");
            let made_up = URL_SAFE_NO_PAD.encode(rmp_serde::to_vec(&wrong).unwrap());
            assert_eq!(
                MediaReference::parse(&made_up).unwrap_err().kind,
                FailureKind::Permanent,
                "{wrong:?}"
            );
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
        let mut pipe = ChannelWriter { chunks, started: false, restarted: false };
        let task = tokio::task::spawn_blocking(move || {
            pipe.truncate(0).unwrap();
            pipe.rewind().unwrap();
            pipe.write_all(b"one").unwrap();
            pipe.truncate(0).unwrap();
            pipe.write_all(b"two").unwrap_err()
        });
        assert!(matches!(received.recv().await, Some(DownloadChunk::Bytes(bytes)) if bytes == "one"));
        assert_eq!(task.await.unwrap().to_string(), "the first attempt was read already");
        assert!(received.recv().await.is_none());
    }
}
