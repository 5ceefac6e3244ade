//! The media cache with a provider whose downloads the tests control.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream};
use tokio::sync::{Notify, Semaphore};

use super::disk_cache::{DiskCache, FileKey};
use super::sha256::Sha256Digest;
use super::*;
use relevo_clock::Clock;
use relevo_domain::{InstanceNumber, MessageId, OutboundMessage, ProviderKind, ProviderMessageId, Timestamp};
use relevo_metrics::Metrics;
use relevo_provider::{CheckError, LinkedProvider, MarkReadRequest, MediaStream, Provider, RemoteMedia};
use relevo_store::{DataFolder, Store};

const ONE: InstanceNumber = InstanceNumber::FIRST;

/// A file at WhatsApp.
struct FakeMedia {
    content: &'static [u8],
    sha256: Option<String>,
    size: Option<u64>,
    /// Error of `open_media`, if set.
    failure: Option<Failure>,
    opened: AtomicUsize,
    began: Notify,
    /// Permits for streams to end.
    may_end: Semaphore,
}

impl FakeMedia {
    fn new(content: &'static [u8]) -> Self {
        Self {
            content,
            sha256: Some(sha256(content)),
            size: Some(content.len() as u64),
            failure: None,
            opened: AtomicUsize::new(0),
            began: Notify::new(),
            may_end: Semaphore::new(Semaphore::MAX_PERMITS),
        }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    fn remote_media(&self) -> RemoteMedia {
        RemoteMedia {
            url: "https://lookaside.example/1".parse().unwrap(),
            mime: "image/png".to_owned(),
            sha256: self.sha256.clone(),
            size: self.size,
        }
    }
}

/// A provider of one file. Its streams share the state of the file.
struct MediaProvider(Arc<FakeMedia>);

impl Provider for MediaProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::CloudApi
    }

    fn linked(&self) -> Option<&dyn LinkedProvider> {
        None
    }

    fn check(&self, _: &OutboundMessage) -> Result<(), CheckError> {
        Ok(())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        future::ready(Ok(())).boxed()
    }

    fn send<'a>(
        &'a self,
        _: MessageId,
        _: &'a OutboundMessage,
    ) -> BoxFuture<'a, Result<ProviderMessageId, Failure>> {
        future::ready(Err(Failure::permanent("this provider sends no messages"))).boxed()
    }

    fn mark_read<'a>(&'a self, _: &'a MarkReadRequest, _: bool) -> BoxFuture<'a, Result<(), Failure>> {
        future::ready(Ok(())).boxed()
    }

    fn media<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>> {
        future::ready(Ok(self.0.remote_media())).boxed()
    }

    fn open_media<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(RemoteMedia, MediaStream), Failure>> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        let fake = self.0.clone();
        let opened = match &self.0.failure {
            Some(failure) => Err(failure.clone()),
            None => {
                let chunks = stream::iter(fake.content.chunks(3)).map(|chunk| Ok(Bytes::from_static(chunk)));
                let end = stream::once(async move {
                    fake.began.notify_one();
                    drop(fake.may_end.acquire().await);
                    Ok(Bytes::new())
                });
                Ok((self.0.remote_media(), chunks.chain(end).boxed()))
            }
        };
        future::ready(opened).boxed()
    }
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest as _;
    Sha256Digest(sha2::Sha256::digest(content).into()).to_string()
}

struct MediaFixture {
    media: MediaCache,
    folder: DataFolder,
    clock: Clock,
    store: Store,
    dir: tempfile::TempDir,
}

impl MediaFixture {
    fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
        let clock = Clock::from_tokio(Timestamp(1_800_000_000_000));
        let media = MediaCache::open(&folder, store.clone(), clock, options).unwrap();
        Self { media, folder, clock, store, dir }
    }

    async fn get(&self, fake: &Arc<FakeMedia>, media_id: &str) -> Result<Vec<u8>, Error> {
        let file = self.media.get(ONE, Arc::new(MediaProvider(fake.clone())), media_id).await?;
        assert_eq!((file.mime(), file.sha256()), ("image/png", sha256(fake.content)));
        Ok(read_all(&file).await)
    }

    fn list_dir(&self, folder: &str) -> Vec<PathBuf> {
        let folder = self.dir.path().join("inbound-media").join(folder);
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

async fn read_all(file: &MediaFile) -> Vec<u8> {
    read_range(file, 0..file.size()).await
}

async fn read_range(file: &MediaFile, range: std::ops::Range<u64>) -> Vec<u8> {
    let chunks: Vec<Bytes> = file.read(range).try_collect().await.unwrap();
    chunks.concat()
}

fn default_options() -> Options {
    Options::default()
}

#[tokio::test]
async fn file_is_fetched_once_and_read_from_disk_after_a_restart() {
    let fixture = MediaFixture::new(default_options());
    let fake = Arc::new(FakeMedia::new(b"the picture"));
    for _ in 0..2 {
        assert_eq!(fixture.get(&fake, "1").await.unwrap(), b"the picture");
    }
    assert_eq!(fake.opened(), 1);
    let reopened =
        MediaCache::open(&fixture.folder, fixture.store.clone(), fixture.clock, default_options()).unwrap();
    let file = reopened.get(ONE, Arc::new(MediaProvider(fake.clone())), "1").await.unwrap();
    assert_eq!(read_all(&file).await, b"the picture");
    assert_eq!(read_range(&file, 4..7).await, b"pic");
    assert_eq!(fake.opened(), 1);
    // The same media id of another instance is another file.
    let other = ONE.next().unwrap();
    reopened.get(other, Arc::new(MediaProvider(fake.clone())), "1").await.unwrap();
    assert_eq!(fake.opened(), 2);
}

#[tokio::test]
async fn concurrent_requests_share_one_download() {
    let fixture = MediaFixture::new(default_options());
    let fake = Arc::new(FakeMedia { may_end: Semaphore::new(0), ..FakeMedia::new(b"long") });
    let all = future::join_all((0..50).map(|_| fixture.get(&fake, "1")));
    let release = async {
        fake.began.notified().await;
        fake.may_end.add_permits(1);
    };
    let (all, ()) = tokio::join!(all, release);
    assert!(all.into_iter().all(|got| got.unwrap() == b"long"));
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn abandoned_download_leaves_no_file() {
    let fixture = MediaFixture::new(default_options());
    let fake = Arc::new(FakeMedia { may_end: Semaphore::new(0), ..FakeMedia::new(b"long") });
    {
        let mut asking = std::pin::pin!(fixture.get(&fake, "1"));
        let began = fake.began.notified();
        tokio::select! {
            _ = &mut asking => panic!("the download cannot end without a permit"),
            () = began => {}
        }
        assert_eq!(fixture.list_dir("drafts").len(), 1);
    }
    assert_eq!(fixture.list_dir("drafts").len(), 0);
    assert_eq!(fixture.list_dir("files").len(), 0);
}

#[tokio::test]
async fn file_that_fails_its_checks_is_refused() {
    let fixture = MediaFixture::new(default_options());
    let wrong = [
        FakeMedia { sha256: Some(sha256(b"another")), ..FakeMedia::new(b"content") },
        FakeMedia { size: Some(8), ..FakeMedia::new(b"content") },
    ];
    for fake in wrong {
        let error = fixture.get(&Arc::new(fake), "1").await.unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{error}");
    }
    let large = FakeMedia { size: Some(200 << 20), ..FakeMedia::new(b"content") };
    let error = fixture.get(&Arc::new(large), "1").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    // A digest in an unknown form is not checked.
    let unchecked =
        FakeMedia { sha256: Some("SHA256_HASH".to_owned()), size: None, ..FakeMedia::new(b"content") };
    assert_eq!(fixture.get(&Arc::new(unchecked), "1").await.unwrap(), b"content");
    assert_eq!((fixture.list_dir("drafts").len(), fixture.list_dir("files").len()), (0, 1));
}

#[tokio::test]
async fn oversized_stream_is_cut_off_without_an_announced_size() {
    static LARGE: [u8; 1 << 20] = [0; 1 << 20];
    let fixture = MediaFixture::new(default_options());
    let chunks = stream::iter((0..200).map(|_| Ok(Bytes::from_static(&LARGE)))).boxed();
    let disk_cache = DiskCache::open(&fixture.folder).unwrap();
    let received = cache::write_stream(chunks, disk_cache.create_partial().unwrap()).await;
    assert!(matches!(received, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn errors_tell_permanent_failures_from_transient_ones() {
    let fixture = MediaFixture::new(default_options());
    let gone = FakeMedia { failure: Some(Failure::permanent("no such object")), ..FakeMedia::new(b"") };
    assert!(matches!(fixture.get(&Arc::new(gone), "1").await, Err(Error::Gone(_))));
    let down = FakeMedia { failure: Some(Failure::transient("reset")), ..FakeMedia::new(b"") };
    assert!(matches!(fixture.get(&Arc::new(down), "1").await, Err(Error::Failed(_))));
}

#[tokio::test]
async fn startup_removes_partial_files_and_damaged_files_are_refetched() {
    let fixture = MediaFixture::new(default_options());
    let fake = Arc::new(FakeMedia::new(b"the picture"));
    fixture.get(&fake, "1").await.unwrap();
    let [file] = fixture.list_dir("files").try_into().unwrap();
    for damage in [&b""[..], b"the picture\xff\xff\xff\xff", b"the picture\0\0\0\x04"] {
        fs::write(&file, damage).unwrap();
        fs::write(fixture.dir.path().join("inbound-media/drafts/left"), b"half").unwrap();
        let reopened =
            MediaCache::open(&fixture.folder, fixture.store.clone(), fixture.clock, default_options())
                .unwrap();
        assert_eq!(fixture.list_dir("drafts").len(), 0);
        let file = reopened.get(ONE, Arc::new(MediaProvider(fake.clone())), "1").await.unwrap();
        assert_eq!(read_all(&file).await, b"the picture");
    }
    assert_eq!(fake.opened(), 4);
}

/// Inserts a file with this size and modification time.
fn insert_file(disk_cache: &DiskCache, id: &str, bytes: usize, at: u64) {
    let mut partial = disk_cache.create_partial().unwrap();
    partial.write(&vec![1; bytes]).unwrap();
    disk_cache.insert(FileKey::new(ONE, id), partial, "image/png".to_owned(), Timestamp(at)).unwrap();
}

#[test]
fn sweep_removes_the_oldest_files_first() {
    let dir = tempfile::tempdir().unwrap();
    let disk_cache = DiskCache::open(&DataFolder::open(dir.path()).unwrap()).unwrap();
    let there = || ["a", "b", "c", "d"].map(|id| disk_cache.find(FileKey::new(ONE, id)).is_some());
    insert_file(&disk_cache, "c", 10_000, 3_000);
    insert_file(&disk_cache, "a", 10_000, 1_000);
    insert_file(&disk_cache, "d", 1, 4_000);
    insert_file(&disk_cache, "b", 10_000, 2_000);
    fs::write(dir.path().join("inbound-media/files/stray"), b"x").unwrap();

    disk_cache.sweep(Timestamp(1_001), u64::MAX).unwrap();
    assert_eq!(there(), [false, true, true, true], "by age");
    assert!(!dir.path().join("inbound-media/files/stray").exists());
    assert!(disk_cache.exceeds(20_000));
    disk_cache.sweep(Timestamp(0), 20_000).unwrap();
    assert_eq!(there(), [false, false, true, true], "by bytes");
    assert!(!disk_cache.exceeds(20_000));
    disk_cache.sweep(Timestamp(0), 0).unwrap();
    assert_eq!(there(), [false; 4]);
}

#[tokio::test]
async fn file_is_served_even_when_the_cache_is_full() {
    let fixture = MediaFixture::new(Options { max_bytes: 0, ..default_options() });
    let fake = Arc::new(FakeMedia::new(b"the picture"));
    assert_eq!(fixture.get(&fake, "1").await.unwrap(), b"the picture");
    assert_eq!(fixture.list_dir("files").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn locations_and_files_expire() {
    let fixture = MediaFixture::new(Options { retention: Duration::from_secs(60), ..default_options() });
    let message: ProviderMessageId = "wamid.1".parse().unwrap();
    let location = MediaLocation {
        media_id: "1".to_owned(),
        mime: "image/png".to_owned(),
        sha256: None,
        file_name: Some("a.png".to_owned()),
        at: fixture.clock.now(),
    };
    let (recorded, id) = (location.clone(), message.clone());
    fixture.store.write(move |tx| record_location(tx, ONE, &id, &recorded)).await.unwrap();
    assert_eq!(fixture.media.location(ONE, &message).unwrap(), location);
    let unknown = fixture.media.location(ONE.next().unwrap(), &message);
    assert!(matches!(unknown, Err(Error::Unknown)));

    let stop = tokio_util::sync::CancellationToken::new();
    let maintenance = tokio::spawn(fixture.media.clone().run_maintenance(stop.clone()));
    tokio::time::sleep(Duration::from_secs(8 * 24 * 3600)).await;
    while fixture.media.location(ONE, &message).is_ok() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    maintenance.await.unwrap();
}
