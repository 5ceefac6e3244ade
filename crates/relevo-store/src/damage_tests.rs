//! Damage on the disk and power cuts: what the start must notice, and what it must not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use relevo_metrics::Metrics;

use super::engine::Engine;
use super::recovery;
use super::tx::KeyValue;
use super::{DataFolder, Error, Key, Options, Space, Store};

/// Size of a block that a disk writes at once.
const BLOCK: usize = 4096;

/// All files of a folder with their contents.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path)
            } else {
                drop(found.insert(path.clone(), fs::read(path).unwrap()))
            }
        }
    }
    found
}

/// The files of a folder, to be written to another one.
fn image(folder: &Path) -> Files {
    files(folder)
        .into_iter()
        .map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes))
        .collect()
}

fn write_image(image: &Files) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in image {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn open(folder: &Path, accept_loss: bool) -> Result<(Store, super::WriterExit), Error> {
    let options = Options { accept_loss, min_free_space: 0, ..Options::default() };
    Store::open(&DataFolder::open(folder)?, &options, Metrics::default())
}

fn message(n: u64) -> Key {
    Key::new(Space::Ledger).u64(n)
}

/// All entries but the record of the last commit.
fn entries(store: &Store) -> Vec<KeyValue> {
    let all = store.range(&Key::from(vec![0]), &Key::from(vec![u8::MAX])).map(Result::unwrap);
    all.filter(|(key, _)| !super::contents::CommitRecord::is_key(key)).collect()
}

/// Changes as a node makes them: new, changed and deleted entries of several spaces and sizes.
async fn change(store: &Store, random: &mut StdRng, commits: u64) {
    for _ in 0..commits {
        let changes: Vec<(u64, usize, u8)> = (0..random.random_range(1..8))
            .map(|_| (random.random_range(0..400), random.random_range(0..1500), random.random_range(0..10)))
            .collect();
        let work = move |tx: &mut super::Tx| {
            for (n, size, kind) in changes {
                let value = vec![u8::try_from(n % 251).unwrap(); size];
                match kind {
                    0..2 => tx.delete(message(n))?,
                    2..4 => tx.put(Key::new(Space::Event).u64(n), value)?,
                    4 => tx.put(Key::new(Space::BulkJob).u64(n), vec![7; 5 * size])?,
                    _ => tx.put(message(n), value)?,
                }
            }
            Ok(())
        };
        store.write(work).await.unwrap();
    }
}

/// Writes 300 messages and some changes, restarts once in between, and returns the image after a clean stop with the
/// entries.
async fn database(seed: u64) -> (Files, Vec<KeyValue>) {
    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut all = Vec::new();
    for _ in 0..2 {
        let (store, closing) = open(folder.path(), false).unwrap();
        for n in 0..150 {
            store.write(move |tx| tx.put(message(n), vec![1; 300])).await.unwrap();
        }
        change(&store, &mut random, 100).await;
        all = entries(&store);
        drop(store);
        closing.wait().await;
    }
    (image(folder.path()), all)
}

/// What a start on a damaged folder does.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Refused,
    Complete,
}

/// Starts on an image: the outcome, after the checks that hold for every outcome.
async fn start(image: &Files, all: &[KeyValue], what: &str) -> Start {
    let folder = write_image(image);
    let lock = folder.path().join("lock");
    let before = files(folder.path());
    match open(folder.path(), false) {
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, Error::Incomplete { .. }), "{what}: {text}");
            assert!(text.contains("--accept-loss") && text.contains("Missing: "), "{what}: {text}");
            let mut after = files(folder.path());
            after.retain(|path, _| before.contains_key(path) || *path != lock);
            assert!(before == after, "{what}: the refusal changed the folder");
            Start::Refused
        }
        Ok((store, closing)) => {
            assert!(entries(&store) == all, "{what}: opened silently without a part of the entries");
            drop(store);
            closing.wait().await;
            Start::Complete
        }
    }
}

#[tokio::test]
async fn flipped_byte_is_refused_or_harmless() {
    let (image, all) = database(1).await;
    let mut random = StdRng::seed_from_u64(2);
    let sizes: Vec<(PathBuf, usize)> = image
        .iter()
        .filter(|(_, bytes)| !bytes.is_empty())
        .map(|(path, bytes)| (path.clone(), bytes.len()))
        .collect();
    let mut refused = 0;
    for round in 0..200 {
        // Most of them in the log, the others in every file of the folder.
        let (path, size) = match round % 5 {
            0 => sizes[random.random_range(0..sizes.len())].clone(),
            _ => (PathBuf::from("db/db"), image[Path::new("db/db")].len()),
        };
        if path == Path::new("VERSION") {
            continue;
        }
        let (at, bit) = (random.random_range(0..size), random.random_range(0..8));
        let mut damaged = image.clone();
        damaged.get_mut(&path).unwrap()[at] ^= 1 << bit;
        let outcome = start(&damaged, &all, &format!("bit {bit} of byte {at} of {}", path.display())).await;
        refused += usize::from(outcome == Start::Refused);
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn truncated_file_is_refused_or_harmless() {
    let (image, all) = database(3).await;
    let mut random = StdRng::seed_from_u64(4);
    let mut refused = 0;
    for round in 0..50 {
        let mut damaged = image.clone();
        let snapshot =
            damaged.keys().find(|path| path.starts_with("db") && path.to_str().unwrap().contains("snap."));
        let path = match (round % 10, snapshot) {
            (0, Some(snapshot)) => snapshot.clone(),
            (1, _) => PathBuf::from("db-witness"),
            _ => PathBuf::from("db/db"),
        };
        let file = damaged.get_mut(&path).unwrap();
        let len = random.random_range(0..file.len());
        file.truncate(len);
        let outcome = start(&damaged, &all, &format!("{} cut to {len} bytes", path.display())).await;
        refused += usize::from(outcome == Start::Refused);
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn missing_files_are_refused_or_harmless() {
    let (image, all) = database(5).await;
    let without = |is_gone: &dyn Fn(&Path) -> bool| -> Files {
        image
            .iter()
            .filter(|(path, _)| !is_gone(path))
            .map(|(path, bytes)| (path.clone(), bytes.clone()))
            .collect()
    };
    let is_db = |path: &Path| path.starts_with("db");
    assert_eq!(start(&without(&is_db), &all, "no db").await, Start::Refused);
    assert_eq!(start(&without(&|path| path == Path::new("db/db")), &all, "no db/db").await, Start::Refused);
    let neither = |path: &Path| is_db(path) || path == Path::new("db-witness");
    assert_eq!(start(&without(&neither), &all, "neither db nor witness").await, Start::Refused);
    for path in image.keys().filter(|path| *path != Path::new("db/db")) {
        start(&without(&|other| other == path), &all, &format!("no {}", path.display())).await;
    }
    assert_eq!(start(&image, &all, "nothing").await, Start::Complete);
}

#[tokio::test]
async fn older_database_beside_a_newer_witness_is_refused_and_says_since_when() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for round in 0..2u64 {
        let (store, closing) = open(folder.path(), false).unwrap();
        for n in 0..10 {
            store.write(move |tx| tx.put(message(round * 100 + n), vec![1])).await.unwrap();
        }
        drop(store);
        closing.wait().await;
        images.push(image(folder.path()));
    }
    let mut mixed = images[0].clone();
    mixed.insert("db-witness".into(), images[1][Path::new("db-witness")].clone());
    let folder = write_image(&mixed);
    let error = open(folder.path(), false).err().unwrap().to_string();
    assert!(error.contains("its last commits are missing"), "{error}");
    assert!(error.contains("at least 10 of 20 entries (statuses of messages: 10)"), "{error}");
    assert!(error.contains("the commits after 11 are lost, up to 21"), "{error}");
}

#[tokio::test]
async fn accepted_loss_keeps_what_can_be_read_and_the_damaged_database() {
    let (image, all) = database(6).await;
    let mut random = StdRng::seed_from_u64(7);
    let mut kept = Vec::new();
    for _ in 0..10 {
        let mut damaged = image.clone();
        let file = damaged.get_mut(Path::new("db/db")).unwrap();
        let at = random.random_range(0..file.len());
        file[at..].iter_mut().take(40).for_each(|byte| *byte ^= 0x55);
        let folder = write_image(&damaged);
        if open(folder.path(), false).is_ok() {
            continue;
        }
        let (store, closing) = open(folder.path(), true).unwrap();
        let found = entries(&store);
        kept.push(found.len());
        store.write(|tx| tx.put(message(9_999), vec![1])).await.unwrap();
        drop(store);
        closing.wait().await;
        let aside = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = aside.filter(|path| path.to_str().unwrap().contains("db.damaged-")).collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert!(fs::read(aside[0].join("db")).unwrap() == damaged[Path::new("db/db")]);
        // The loss is over: the next start needs no flag.
        let (store, closing) = open(folder.path(), false).unwrap();
        assert_eq!(entries(&store).len(), found.len() + 1);
        drop(store);
        closing.wait().await;
    }
    assert!(kept.iter().any(|kept| kept * 2 > all.len()), "{kept:?} of {}", all.len());
}

#[tokio::test]
async fn accepted_loss_of_everything_begins_an_empty_database() {
    let (image, _) = database(8).await;
    let rest = image.into_iter().filter(|(path, _)| !path.starts_with("db")).collect();
    let folder = write_image(&rest);
    assert!(open(folder.path(), false).is_err());
    let (store, closing) = open(folder.path(), true).unwrap();
    assert_eq!(entries(&store), []);
    drop(store);
    closing.wait().await;
    open(folder.path(), false).unwrap();
}

/// A database of the format before the witness: opens, gets a witness, and older binaries refuse it from then on.
#[tokio::test]
async fn folder_without_a_witness_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("VERSION"), "1\n").unwrap();
    let db = sled::open(folder.path().join("db")).unwrap();
    db.insert(message(1), vec![1]).unwrap();
    db.flush().unwrap();
    drop(db);
    let (store, closing) = open(folder.path(), false).unwrap();
    assert_eq!(entries(&store).len(), 1);
    drop(store);
    closing.wait().await;
    assert_eq!(fs::read_to_string(folder.path().join("VERSION")).unwrap(), "2\n");
    let image = image(folder.path());
    assert_eq!(start(&image, &[(message(1).as_slice().to_vec(), vec![1])], "clean").await, Start::Complete);
    let empty = image.into_iter().map(|(path, bytes)| {
        let is_log = path == Path::new("db/db");
        (path, if is_log { Vec::new() } else { bytes })
    });
    assert_eq!(start(&empty.collect(), &[], "empty log").await, Start::Refused);
}

#[tokio::test]
async fn interrupted_first_start_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), false).unwrap());
    let first = image(folder.path());
    // The files that a first start writes, in their order.
    for count in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        super::witness::WitnessFile::create(folder.path(), &super::witness::Witness::of_nothing()).unwrap();
        if count > 0 {
            fs::write(folder.path().join("VERSION"), &first[Path::new("VERSION")]).unwrap();
        }
        if count > 1 {
            fs::create_dir_all(folder.path().join("db/blobs")).unwrap();
        }
        open(folder.path(), false).unwrap();
    }
}

/// Every state in which a power cut can leave the folder: all that was synced, and of what was written since, any blocks.
#[tokio::test]
async fn power_cut_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(9);
    let (mut cuts, mut synced) = (0, Files::new());
    for commits in 1..=10 {
        let (store, closing) = open(folder.path(), false).unwrap();
        if !synced.is_empty() {
            // While it opens, sled writes a snapshot and clears what is torn or unused.
            cuts += cut_power(&synced, &image(folder.path()), 4, &mut random).await;
        }
        for _ in 0..4 {
            change(&store, &mut random, 12).await;
            synced = image(folder.path());
            change(&store, &mut random, commits).await;
            cuts += cut_power(&synced, &image(folder.path()), 5, &mut random).await;
        }
        drop(store);
        closing.wait().await;
        synced = image(folder.path());
    }
    assert!(cuts >= 200, "{cuts}");
}

/// Starts `count` times on a folder of which `synced` is durable and `written` is not. Returns `count`.
async fn cut_power(synced: &Files, written: &Files, count: u32, random: &mut StdRng) -> u32 {
    let log = Path::new("db/db");
    for _ in 0..count {
        // Snapshots are synced before they get their name.
        let mut cut = if random.random_range(0..2) == 0 { synced.clone() } else { written.clone() };
        cut.insert("db-witness".into(), synced[Path::new("db-witness")].clone());
        cut.insert(log.into(), synced[log].clone());
        mix_blocks(cut.get_mut(log).unwrap(), &written[log], random);
        let folder = write_image(&cut);
        let (store, closing) = open(folder.path(), false).unwrap_or_else(|error| panic!("{error}"));
        assert!(!entries(&store).is_empty());
        drop(store);
        closing.wait().await;
    }
    count
}

/// Replaces each block by its newer version with a probability that is drawn for the whole file.
fn mix_blocks(old: &mut Vec<u8>, newer: &[u8], random: &mut StdRng) {
    let share = random.random_range(0..=100);
    if old.len() < newer.len() && random.random_range(0..100) < 80 {
        old.resize(newer.len(), 0);
    }
    for (old, newer) in old.chunks_mut(BLOCK).zip(newer.chunks(BLOCK)) {
        if old.len() == newer.len() && random.random_range(0..100) < share {
            old.copy_from_slice(newer);
        }
    }
}

/// A part of the database that is damaged while the node runs: its entries are errors, never missing.
#[tokio::test]
async fn damage_that_a_later_read_meets_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path()).unwrap();
    {
        let (store, closing) = Store::open(&data, &Options::default(), Metrics::default()).unwrap();
        for n in 0..300 {
            store.write(move |tx| tx.put(message(n), vec![3; 500])).await.unwrap();
        }
        drop(store);
        closing.wait().await;
    }
    let (store, _closing) = Store::open(&data, &Options::default(), Metrics::default()).unwrap();
    let file = File::options().write(true).open(folder.path().join("db/db")).unwrap();
    let len = file.metadata().unwrap().len();
    for at in (512..len).step_by(64) {
        file.write_all_at(&[0xaa], at).unwrap();
    }
    assert!(!store.is_damaged());
    let reads: Vec<_> = (0..300).map(|n| store.get(&message(n))).collect();
    assert!(
        reads.iter().all(|read| !matches!(read, Ok(None))),
        "a damaged entry was taken for a missing one"
    );
    let failed: Vec<_> = reads.iter().filter_map(|read| read.as_ref().err()).collect();
    assert!(failed.len() > 100 && failed.iter().all(|error| matches!(error, Error::Unreadable(_))));
    assert_eq!(failed[0].kind(), relevo_domain::ErrorKind::Internal);
    assert!(store.is_damaged());
    let range: Vec<_> = store.range(&message(0), &message(300)).collect();
    assert!(range.iter().any(Result::is_err), "a range passes over damage");
}

/// The read-only recovery sees what sled recovers, over random workloads and restarts.
#[test]
fn recovery_reads_what_sled_reads() {
    let mut random = StdRng::seed_from_u64(10);
    for _ in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        for restart in 0..6 {
            let engine = Engine::new(sled::open(&path).unwrap());
            for _ in 0..3_000 {
                let key = random.random_range(0..2_000u32).to_be_bytes();
                match random.random_range(0..10) {
                    0..3 => drop(engine.db().remove(key).unwrap()),
                    _ => {
                        let mut value = vec![0; random.random_range(0..600)];
                        random.fill_bytes(&mut value);
                        drop(engine.db().insert(key, value).unwrap());
                    }
                }
            }
            if restart == 4 {
                // Almost everything is deleted, so that pages merge.
                for key in 0..1_990u32 {
                    engine.db().remove(key.to_be_bytes()).unwrap();
                }
            }
            engine.db().flush().unwrap();
            let expected: Vec<_> = engine
                .iter()
                .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
                .collect();
            let read = || {
                let mut found = Vec::new();
                recovery::read_all(&path, &mut |key, value| found.push((key.to_vec(), value.to_vec())))
                    .unwrap();
                found
            };
            assert!(read() == expected, "while sled is open");
            drop(engine);
            assert!(read() == expected, "after it was closed");
        }
    }
}
