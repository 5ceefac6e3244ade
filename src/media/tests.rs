use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream};
use tokio::sync::{Notify, Semaphore};

use super::digest::Digest;
use super::shelf::{Name, Shelf};
use super::*;
use relevo_clock::Clock;
use relevo_domain::{InstanceNumber, MessageId, OutboundMessage, ProviderKind, ProviderMessageId, Timestamp};
use relevo_metrics::Metrics;
use relevo_provider::{MediaStream, Provider, ReadMark, Refusal, RemoteMedia};
use relevo_store::{Folder, Store};

const ONE: InstanceNumber = InstanceNumber::FIRST;

/// WhatsApp, as far as files go.
struct Fake {
    content: &'static [u8],
    sha256: Option<String>,
    size: Option<u64>,
    /// What it says instead.
    failure: Option<Failure>,
    opened: AtomicUsize,
    began: Notify,
    /// A file ends once it may.
    may_end: Semaphore,
}

impl Fake {
    fn with(content: &'static [u8]) -> Self {
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

    fn described(&self) -> RemoteMedia {
        RemoteMedia {
            url: "https://lookaside.example/1".parse().unwrap(),
            mime: "image/png".to_owned(),
            sha256: self.sha256.clone(),
            size: self.size,
        }
    }
}

/// A provider shares its fake with the stream that it gives out.
struct Road(Arc<Fake>);

impl Provider for Road {
    fn kind(&self) -> ProviderKind {
        ProviderKind::CloudApi
    }

    fn check(&self, _: &OutboundMessage) -> Result<(), Refusal> {
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
        future::ready(Err(Failure::permanent("it sends nothing"))).boxed()
    }

    fn mark_read<'a>(&'a self, _: &'a ReadMark, _: bool) -> BoxFuture<'a, Result<(), Failure>> {
        future::ready(Ok(())).boxed()
    }

    fn media<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>> {
        future::ready(Ok(self.0.described())).boxed()
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
                Ok((self.0.described(), chunks.chain(end).boxed()))
            }
        };
        future::ready(opened).boxed()
    }
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest as _;
    Digest(sha2::Sha256::digest(content).into()).to_string()
}

struct Fixture {
    library: Library,
    folder: Folder,
    clock: Clock,
    store: Store,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (store, _) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
        let clock = Clock::following_tokio(Timestamp(1_800_000_000_000));
        let library = Library::open(&folder, store.clone(), clock, options).unwrap();
        Self { library, folder, clock, store, dir }
    }

    async fn get(&self, fake: &Arc<Fake>, media_id: &str) -> Result<Vec<u8>, Error> {
        let file = self.library.get(ONE, Arc::new(Road(fake.clone())), media_id).await?;
        assert_eq!((file.mime(), file.sha256()), ("image/png", sha256(fake.content)));
        Ok(content(&file).await)
    }

    fn listed(&self, folder: &str) -> Vec<PathBuf> {
        let folder = self.dir.path().join("inbound-media").join(folder);
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

async fn content(file: &File) -> Vec<u8> {
    part(file, 0..file.size()).await
}

async fn part(file: &File, range: std::ops::Range<u64>) -> Vec<u8> {
    let chunks: Vec<Bytes> = file.read(range).try_collect().await.unwrap();
    chunks.concat()
}

fn week() -> Options {
    Options::default()
}

#[tokio::test]
async fn a_file_is_fetched_once_and_then_comes_from_the_disk_also_after_a_restart() {
    let world = Fixture::new(week());
    let fake = Arc::new(Fake::with(b"the picture"));
    for _ in 0..2 {
        assert_eq!(world.get(&fake, "1").await.unwrap(), b"the picture");
    }
    assert_eq!(fake.opened(), 1);
    let again = Library::open(&world.folder, world.store.clone(), world.clock, week()).unwrap();
    let file = again.get(ONE, Arc::new(Road(fake.clone())), "1").await.unwrap();
    assert_eq!(content(&file).await, b"the picture");
    assert_eq!(part(&file, 4..7).await, b"pic");
    assert_eq!(fake.opened(), 1);
    // The same id of another instance is another file.
    let other = ONE.next().unwrap();
    again.get(other, Arc::new(Road(fake.clone())), "1").await.unwrap();
    assert_eq!(fake.opened(), 2);
}

#[tokio::test]
async fn who_asks_while_a_file_is_fetched_waits_for_the_same_download() {
    let world = Fixture::new(week());
    let fake = Arc::new(Fake { may_end: Semaphore::new(0), ..Fake::with(b"long") });
    let all = future::join_all((0..50).map(|_| world.get(&fake, "1")));
    let release = async {
        fake.began.notified().await;
        fake.may_end.add_permits(1);
    };
    let (all, ()) = tokio::join!(all, release);
    assert!(all.into_iter().all(|got| got.unwrap() == b"long"));
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn a_download_that_nobody_waits_for_leaves_nothing() {
    let world = Fixture::new(week());
    let fake = Arc::new(Fake { may_end: Semaphore::new(0), ..Fake::with(b"long") });
    {
        let mut asking = std::pin::pin!(world.get(&fake, "1"));
        let began = fake.began.notified();
        tokio::select! {
            _ = &mut asking => panic!("it cannot end"),
            () = began => {}
        }
        assert_eq!(world.listed("drafts").len(), 1);
    }
    assert_eq!(world.listed("drafts").len(), 0);
    assert_eq!(world.listed("files").len(), 0);
}

#[tokio::test]
async fn what_is_not_what_whatsapp_promised_is_not_given_out() {
    let world = Fixture::new(week());
    let wrong = [
        Fake { sha256: Some(sha256(b"another")), ..Fake::with(b"content") },
        Fake { size: Some(8), ..Fake::with(b"content") },
    ];
    for fake in wrong {
        let error = world.get(&Arc::new(fake), "1").await.unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{error}");
    }
    let large = Fake { size: Some(200 << 20), ..Fake::with(b"content") };
    let error = world.get(&Arc::new(large), "1").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    // A digest in no known form promises nothing.
    let odd = Fake { sha256: Some("SHA256_HASH".to_owned()), size: None, ..Fake::with(b"content") };
    assert_eq!(world.get(&Arc::new(odd), "1").await.unwrap(), b"content");
    assert_eq!((world.listed("drafts").len(), world.listed("files").len()), (0, 1));
}

#[tokio::test]
async fn a_file_larger_than_it_may_be_is_cut_off_though_nobody_announced_it() {
    static LARGE: [u8; 1 << 20] = [0; 1 << 20];
    let world = Fixture::new(week());
    let chunks = stream::iter((0..200).map(|_| Ok(Bytes::from_static(&LARGE)))).boxed();
    let shelf = Shelf::open(&world.folder).unwrap();
    let received = library::receive(chunks, shelf.draft().unwrap()).await;
    assert!(matches!(received, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn failures_say_whether_asking_again_helps() {
    let world = Fixture::new(week());
    let gone = Fake { failure: Some(Failure::permanent("no such object")), ..Fake::with(b"") };
    assert!(matches!(world.get(&Arc::new(gone), "1").await, Err(Error::Gone(_))));
    let down = Fake { failure: Some(Failure::transient("reset")), ..Fake::with(b"") };
    assert!(matches!(world.get(&Arc::new(down), "1").await, Err(Error::Failed(_))));
}

#[tokio::test]
async fn a_start_removes_drafts_and_damaged_files_are_fetched_anew() {
    let world = Fixture::new(week());
    let fake = Arc::new(Fake::with(b"the picture"));
    world.get(&fake, "1").await.unwrap();
    let [file] = world.listed("files").try_into().unwrap();
    for damage in [&b""[..], b"the picture\xff\xff\xff\xff", b"the picture\0\0\0\x04"] {
        fs::write(&file, damage).unwrap();
        fs::write(world.dir.path().join("inbound-media/drafts/left"), b"half").unwrap();
        let again = Library::open(&world.folder, world.store.clone(), world.clock, week()).unwrap();
        assert_eq!(world.listed("drafts").len(), 0);
        let file = again.get(ONE, Arc::new(Road(fake.clone())), "1").await.unwrap();
        assert_eq!(content(&file).await, b"the picture");
    }
    assert_eq!(fake.opened(), 4);
}

/// A file of so many bytes, dated so.
fn keep(shelf: &Shelf, id: &str, bytes: usize, at: u64) {
    let mut draft = shelf.draft().unwrap();
    draft.write(&vec![1; bytes]).unwrap();
    shelf.keep(Name::of(ONE, id), draft, "image/png".to_owned(), Timestamp(at)).unwrap();
}

#[test]
fn the_shelf_keeps_within_its_bounds_and_the_oldest_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(&Folder::open(dir.path()).unwrap()).unwrap();
    let there = || ["a", "b", "c", "d"].map(|id| shelf.find(Name::of(ONE, id)).is_some());
    keep(&shelf, "c", 10_000, 3_000);
    keep(&shelf, "a", 10_000, 1_000);
    keep(&shelf, "d", 1, 4_000);
    keep(&shelf, "b", 10_000, 2_000);
    fs::write(dir.path().join("inbound-media/files/stray"), b"x").unwrap();

    shelf.sweep(Timestamp(1_001), u64::MAX).unwrap();
    assert_eq!(there(), [false, true, true, true], "by age");
    assert!(!dir.path().join("inbound-media/files/stray").exists());
    assert!(shelf.is_over(20_000));
    shelf.sweep(Timestamp(0), 20_000).unwrap();
    assert_eq!(there(), [false, false, true, true], "by bytes");
    assert!(!shelf.is_over(20_000));
    shelf.sweep(Timestamp(0), 0).unwrap();
    assert_eq!(there(), [false; 4]);
}

#[tokio::test]
async fn a_file_is_given_out_even_when_there_is_no_room_to_keep_it() {
    let world = Fixture::new(Options { max_bytes: 0, ..week() });
    let fake = Arc::new(Fake::with(b"the picture"));
    assert_eq!(world.get(&fake, "1").await.unwrap(), b"the picture");
    assert_eq!(world.listed("files").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn notes_and_files_are_forgotten_when_their_time_is_over() {
    let world = Fixture::new(Options { retention: Duration::from_secs(60), ..week() });
    let message: ProviderMessageId = "wamid.1".parse().unwrap();
    let noted = Note {
        media_id: "1".to_owned(),
        mime: "image/png".to_owned(),
        sha256: None,
        file_name: Some("a.png".to_owned()),
        at: world.clock.now(),
    };
    let (kept, id) = (noted.clone(), message.clone());
    world.store.write(move |tx| note(tx, ONE, &id, &kept)).await.unwrap();
    assert_eq!(world.library.noted(ONE, &message).unwrap(), noted);
    let unknown = world.library.noted(ONE.next().unwrap(), &message);
    assert!(matches!(unknown, Err(Error::Unknown)));

    let stop = tokio_util::sync::CancellationToken::new();
    let tending = tokio::spawn(world.library.clone().tend(stop.clone()));
    tokio::time::sleep(Duration::from_secs(8 * 24 * 3600)).await;
    while world.library.noted(ONE, &message).is_ok() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    tending.await.unwrap();
}
