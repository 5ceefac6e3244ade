//! The event log on a store in a temporary folder.

use std::time::Duration;

use super::*;
use relevo_metrics::Metrics;
use relevo_store::{DataFolder, Options, WriterExit};

const ONE: InstanceNumber = InstanceNumber::FIRST;

fn two() -> InstanceNumber {
    ONE.next().unwrap()
}

/// An empty store and its event logs.
struct EventLogFixture {
    store: Store,
    log: EventLog,
    closing: WriterExit,
    folder: DataFolder,
    _dir: tempfile::TempDir,
}

impl EventLogFixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        Self::open(folder, dir)
    }

    fn open(folder: DataFolder, dir: tempfile::TempDir) -> Self {
        let (store, closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        Self { log: EventLog::new(store.clone()), store, closing, folder, _dir: dir }
    }

    /// Closes the store and opens it again.
    async fn reopen(self) -> Self {
        let Self { store, log, closing, folder, _dir: dir } = self;
        drop((store, log));
        closing.wait().await;
        Self::open(folder, dir)
    }

    /// Appends an event with the time `at` and a text of `size` letters.
    async fn append(&self, instance: InstanceNumber, kind: EventKind, at: u64, size: usize) -> u64 {
        self.store.write(move |tx| append(tx, instance, &event(kind, at, size))).await.unwrap()
    }

    async fn trim(&self, instance: InstanceNumber, since: u64, bytes: u64) -> usize {
        let keep = RetentionLimits { since: Timestamp(since), bytes };
        self.store.write(move |tx| trim(tx, instance, &keep, 1000)).await.unwrap()
    }

    async fn page(&self, from: &LogCursor, limit: usize, kinds: &[&str]) -> LogPage {
        let kinds = EventFilter::parse(kinds.iter().map(|&name| name.to_owned()).collect()).unwrap();
        let query = LogPageQuery { kinds, limit, bytes: 1 << 20, now: Timestamp(999) };
        self.log.page(&[ONE, two()], from, &query).await.unwrap()
    }
}

fn event(kind: EventKind, at: u64, size: usize) -> Event {
    let data = json!({ "n": at, "text": "x".repeat(size) });
    Event { kind, at: Timestamp(at), data }
}

fn sequences(page: &LogPage) -> Vec<(u32, u64)> {
    page.items.iter().map(|item| (item.instance.get(), item.envelope.sequence)).collect()
}

/// The gaps of a page as (from, to, missing).
fn gaps(page: &LogPage) -> Vec<(u64, u64, u64)> {
    let number = |data: &Value, name: &str| data[name].as_u64().unwrap();
    let gaps =
        page.items.iter().map(|item| &item.envelope.event).filter(|event| event.kind == EventKind::Gap);
    gaps.map(|event| {
        let data = &event.data;
        (number(data, "from"), number(data, "to"), number(data, "missing"))
    })
    .collect()
}

#[tokio::test]
async fn events_are_read_in_order_from_any_sequence() {
    let fixture = EventLogFixture::new();
    let mut tails = watch(&fixture.store, None);
    for n in 1..=5 {
        fixture.append(ONE, EventKind::Raw, n, 5000).await;
        fixture.append(two(), EventKind::Raw, n * 10, 1).await;
    }
    tails.changed().await.unwrap();
    let page = read(&fixture.store, ONE, 2, 2).unwrap();
    assert_eq!(page.iter().map(|envelope| envelope.sequence).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(page[0].event, event(EventKind::Raw, 3, 5000));
    assert_eq!(last_sequence(&fixture.store, ONE).unwrap(), 5);
    assert_eq!(fixture.trim(ONE, 4, u64::MAX).await, 3);
    assert_eq!(read(&fixture.store, ONE, 0, 9).unwrap().len(), 2);
    assert_eq!(read(&fixture.store, two(), 0, 9).unwrap().len(), 5);
}

#[tokio::test]
async fn log_is_trimmed_to_its_byte_limit() {
    let fixture = EventLogFixture::new();
    for n in 1..=10 {
        fixture.append(ONE, EventKind::Raw, n, 10_000).await;
        fixture.append(two(), EventKind::Raw, n, 10).await;
    }
    assert_eq!(fixture.trim(ONE, 0, 200_000).await, 0);
    assert_eq!(fixture.trim(ONE, 0, 35_000).await, 7, "three records of a little more than 10,000 bytes fit");
    assert_eq!(fixture.trim(ONE, 0, 35_000).await, 0);
    assert_eq!(fixture.trim(two(), 0, 35_000).await, 0, "each log has its own limit");
    fixture.append(ONE, EventKind::Raw, 11, 10_000).await;
    assert_eq!(fixture.trim(ONE, 0, 35_000).await, 1);
    assert_eq!(read(&fixture.store, ONE, 0, 99).unwrap().first().unwrap().sequence, 9);
    assert_eq!(fixture.trim(ONE, 0, 0).await, 3);
    assert_eq!(fixture.append(ONE, EventKind::Raw, 12, 1).await, 12, "an empty log continues its sequence");
}

#[tokio::test]
async fn reader_behind_the_log_gets_a_gap_and_continues() {
    let fixture = EventLogFixture::new();
    for n in 1..=9 {
        fixture.append(ONE, EventKind::Raw, n, 1).await;
    }
    fixture.trim(ONE, 6, u64::MAX).await;
    let page = fixture.page(&LogCursor::single(ONE, 2), 100, &["message"]).await;
    assert_eq!((gaps(&page), sequences(&page)), (vec![(3, 5, 3)], vec![(1, 5)]), "a gap passes every filter");
    assert_eq!(page.items[0].envelope.event.at, Timestamp(6), "a gap has the time of the next event");
    assert_eq!(page.next.get(ONE), Some(9));

    let fresh = fixture.page(&LogCursor::default(), 100, &[]).await;
    assert_eq!((gaps(&fresh).len(), sequences(&fresh)), (0, vec![(1, 6), (1, 7), (1, 8), (1, 9)]));
    let adjoining = fixture.page(&LogCursor::single(ONE, 5), 100, &[]).await;
    assert_eq!(gaps(&adjoining), []);

    fixture.trim(ONE, 100, u64::MAX).await;
    let nothing_left = fixture.page(&LogCursor::single(ONE, 7), 100, &[]).await;
    assert_eq!(gaps(&nothing_left), [(8, 9, 2)]);
    assert_eq!(nothing_left.items[0].envelope.event.at, Timestamp(999));
    let fresh = fixture.page(&LogCursor::default(), 100, &[]).await;
    assert_eq!((fresh.items.len(), fresh.next.get(ONE), fresh.at_end), (0, Some(9), true));
}

#[tokio::test]
async fn pages_return_every_matching_event_once() {
    let fixture = EventLogFixture::new();
    for n in 1..=300 {
        let kind = if n % 30 == 0 { EventKind::Message } else { EventKind::Raw };
        fixture.append(if n % 2 == 0 { ONE } else { two() }, kind, n, 1).await;
    }
    for (limit, kinds, expected) in [(7, vec![], 300), (3, vec!["message"], 10)] {
        let (mut from, mut times) = (LogCursor::default(), Vec::new());
        loop {
            let page = fixture.page(&from, limit, &kinds).await;
            assert!(page.items.len() <= limit);
            times.extend(page.items.iter().map(|item| item.envelope.event.at));
            // Cursors survive encoding and decoding.
            from = LogCursor::decode(&page.next.encode()).unwrap();
            if page.at_end {
                break;
            }
        }
        assert_eq!(times.len(), expected);
        assert!(times.is_sorted(), "two logs are merged by time: {times:?}");
    }
}

#[tokio::test]
async fn page_ends_at_its_byte_limit() {
    let fixture = EventLogFixture::new();
    for n in 1..=10 {
        fixture.append(ONE, EventKind::Raw, n, 300_000).await;
    }
    let page = fixture.page(&LogCursor::default(), 100, &[]).await;
    assert_eq!((page.items.len(), page.at_end), (4, false));
    assert!(fixture.log.has_more(&[ONE], &page.next).unwrap());
    let all = fixture.log.end_cursor(&[ONE]).unwrap();
    assert_eq!(all, LogCursor::single(ONE, 10));
    assert!(!fixture.log.has_more(&[ONE], &all).unwrap());
}

#[tokio::test]
async fn page_advances_past_events_that_do_not_match() {
    let fixture = EventLogFixture::new();
    let many =
        |tx: &mut Tx| (0..12_000).try_for_each(|n| append(tx, ONE, &event(EventKind::Raw, n, 1)).map(drop));
    fixture.store.write(many).await.unwrap();
    fixture.append(ONE, EventKind::Message, 20_000, 1).await;
    let first = fixture.page(&LogCursor::default(), 10, &["message"]).await;
    assert_eq!((first.items.len(), first.next.get(ONE), first.at_end), (0, Some(10_000), false));
    let second = fixture.page(&first.next, 10, &["message"]).await;
    assert_eq!((sequences(&second), second.at_end), (vec![(1, 12_001)], true));
}

#[tokio::test]
async fn cursor_past_the_end_is_refused() {
    let fixture = EventLogFixture::new();
    fixture.append(ONE, EventKind::Raw, 1, 1).await;
    fixture.log.check_cursor(&LogCursor::single(ONE, 1)).unwrap();
    let error = fixture.log.check_cursor(&LogCursor::single(ONE, 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn undurable_events_are_not_visible() {
    let fixture = EventLogFixture::new();
    let cursor = LogCursor::single(ONE, fixture.append(ONE, EventKind::Raw, 1, 1).await);
    let changes = fixture.log.watch(Some(ONE));
    fixture.store.apply_unsynced(|tx| append(tx, ONE, &event(EventKind::Raw, 2, 1)).map(drop));
    assert_eq!(sequences(&fixture.page(&LogCursor::default(), 9, &[]).await), [(1, 1)]);
    let page = fixture.page(&cursor, 9, &[]).await;
    assert_eq!((page.items.len(), page.at_end, page.next.get(ONE)), (0, true, Some(1)));
    assert!(!fixture.log.has_more(&[ONE], &cursor).unwrap() && !changes.has_changed().unwrap());
    assert_eq!(fixture.log.end_cursor(&[ONE]).unwrap(), cursor);
    assert!(fixture.log.check_cursor(&LogCursor::single(ONE, 2)).is_err());
    fixture.append(ONE, EventKind::Raw, 3, 1).await;
    fixture.log.wait_until_durable(&[ONE, two()]).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(sequences(&fixture.page(&cursor, 9, &[]).await), [(1, 2), (1, 3)]);
}

#[tokio::test]
async fn event_is_readable_when_its_write_completes() {
    let fixture = EventLogFixture::new();
    let (answer, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for n in 1..=20 {
        let (store, answer) = (fixture.store.clone(), answer.clone());
        let done = move |sequence: Result<u64, store::Error>| {
            let _ = answer.send((sequence.unwrap(), last_sequence(&store, ONE).unwrap()));
        };
        fixture.store.submit(move |tx| append(tx, ONE, &event(EventKind::Raw, n, 1)), done).await;
    }
    for n in 1..=20 {
        let (sequence, published) = answers.recv().await.unwrap();
        assert!(
            sequence == n && published >= n,
            "write of {sequence} completed when {published} was published"
        );
    }
}

#[tokio::test]
async fn watch_wakes_readers_of_the_same_log_only() {
    let fixture = EventLogFixture::new();
    let [one, both] = [Some(ONE), None].map(|of| fixture.log.watch(of));
    fixture.append(two(), EventKind::Raw, 1, 1).await;
    assert!(!one.has_changed().unwrap() && both.has_changed().unwrap());
    fixture.append(ONE, EventKind::Raw, 1, 1).await;
    assert!(one.has_changed().unwrap());
}

#[tokio::test]
async fn logs_and_cursors_survive_a_restart() {
    let fixture = EventLogFixture::new();
    for n in 1..=3 {
        fixture.append(ONE, EventKind::Raw, n, 1).await;
    }
    let cursor = fixture.page(&LogCursor::default(), 2, &[]).await.next;
    let fixture = fixture.reopen().await;
    fixture.log.check_cursor(&cursor).unwrap();
    assert_eq!(fixture.log.end_cursor(&[ONE, two()]).unwrap().get(ONE), Some(3));
    assert!(fixture.log.has_more(&[ONE], &cursor).unwrap());
    assert_eq!(sequences(&fixture.page(&cursor, 9, &[]).await), [(1, 3)]);
    assert_eq!(fixture.append(ONE, EventKind::Raw, 4, 1).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_until_durable_covers_events_already_appended() {
    let fixture = EventLogFixture::new();
    let store = fixture.store.clone();
    let writer = tokio::spawn(async move {
        for n in 1..=200 {
            store.write(move |tx| append(tx, ONE, &event(EventKind::Raw, n, 1))).await.unwrap();
        }
    });
    let mut seen = 0;
    while seen < 200 {
        seen = LogTail::read(fixture.store.get(&tail_key(ONE)).unwrap()).unwrap().sequence;
        fixture.log.wait_until_durable(&[two(), ONE]).await.unwrap();
        assert!(last_sequence(&fixture.store, ONE).unwrap() >= seen);
    }
    writer.await.unwrap();
}

/// Reads `until` events: reads up to the newest durable event, then waits for more.
async fn follow(log: EventLog, instances: Vec<InstanceNumber>, until: usize) -> Vec<(u32, u64)> {
    let mut changes = log.watch(if let [one] = instances[..] { Some(one) } else { None });
    let query = LogPageQuery { kinds: EventFilter::All, limit: 7, bytes: 1 << 20, now: Timestamp(0) };
    let (mut cursor, mut seen) = (LogCursor::default(), Vec::new());
    while seen.len() < until {
        changes.borrow_and_update();
        if log.has_more(&instances, &cursor).unwrap() {
            let page = log.page(&instances, &cursor, &query).await.unwrap();
            seen.extend(sequences(&page));
            cursor = page.next;
        } else {
            changes.changed().await.unwrap();
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_readers_miss_no_event_under_concurrent_appends() {
    const EACH: u64 = 150;
    let fixture = EventLogFixture::new();
    let count = usize::try_from(EACH).unwrap();
    let readers = [(vec![ONE], count), (vec![two()], count), (vec![ONE, two()], 2 * count)];
    let readers = readers.map(|(logs, until)| tokio::spawn(follow(fixture.log.clone(), logs, until)));
    let writers = [ONE, two()].map(|instance| {
        let store = fixture.store.clone();
        tokio::spawn(async move {
            for n in 1..=EACH {
                store.write(move |tx| append(tx, instance, &event(EventKind::Raw, n, 1))).await.unwrap();
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    for reader in readers {
        let seen = tokio::time::timeout(Duration::from_secs(20), reader)
            .await
            .expect("a reader missed a signal")
            .unwrap();
        for instance in [ONE, two()] {
            let of_one: Vec<_> =
                seen.iter().filter(|(of, _)| *of == instance.get()).map(|(_, n)| *n).collect();
            assert!(of_one.is_empty() || of_one == (1..=EACH).collect::<Vec<_>>(), "{of_one:?}");
        }
    }
}
