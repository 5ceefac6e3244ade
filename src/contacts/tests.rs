//! The address book and the suppression list on a store of their own.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use relevo_clock::Clock;
use relevo_domain::{Recipient, Timestamp};
use relevo_metrics::Metrics;
use relevo_store::{self as store, DataFolder, Store};

use super::{
    AddressBook, Error, SaveOutcome, SuppressionList, SuppressionReason, find_in, release, suppress,
};

struct ContactsFixture {
    store: Store,
    clock: Clock,
    _folder: (DataFolder, TempDir),
}

impl ContactsFixture {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
        let clock = Clock::from_tokio(Timestamp(1_700_000_000_000));
        Self { store, clock, _folder: (folder, dir) }
    }

    fn address_book(&self) -> AddressBook {
        AddressBook::new(self.store.clone(), self.clock)
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

async fn phones(numbers: &AddressBook, after: Option<u64>, limit: usize) -> (Vec<String>, Option<u64>, u64) {
    let listed = numbers.list(after, limit).await.unwrap();
    (listed.entries.into_iter().map(|number| number.phone).collect(), listed.next, listed.total)
}

#[tokio::test]
async fn saving_again_replaces_the_entry_and_lists_it_first() {
    let bench = ContactsFixture::open();
    let numbers = bench.address_book();
    let old = object(json!({ "email": "a@b.c" }));
    assert_eq!(numbers.save("1".into(), Some("Ana".into()), old).await.unwrap(), SaveOutcome::Created);
    assert_eq!(numbers.save("2".into(), None, Map::new()).await.unwrap(), SaveOutcome::Created);
    assert_eq!(phones(&numbers, None, 10).await, (vec!["2".to_owned(), "1".to_owned()], None, 2));
    assert_eq!(numbers.save("1".into(), None, Map::new()).await.unwrap(), SaveOutcome::Replaced);
    assert_eq!(phones(&numbers, None, 10).await, (vec!["1".to_owned(), "2".to_owned()], None, 2));
    let found = numbers.get("1").unwrap().unwrap();
    assert_eq!((found.name, found.data), (None, Map::new()));
    assert!(numbers.change("2".into(), object(json!({ "x": 1 }))).await.unwrap());
    assert!(!numbers.change("3".into(), object(json!({ "x": 1 }))).await.unwrap());
    assert_eq!(phones(&numbers, None, 10).await.0, ["2", "1"]);
    assert!(numbers.delete("2".into()).await.unwrap());
    assert!(!numbers.delete("2".into()).await.unwrap());
    assert_eq!(phones(&numbers, None, 10).await, (vec!["1".to_owned()], None, 1));
}

#[tokio::test]
async fn phones_are_stored_verbatim() {
    let bench = ContactsFixture::open();
    let numbers = bench.address_book();
    for phone in ["+57 300", "57300", "ñ/☎", " "] {
        numbers.save(phone.into(), None, object(json!({ "as": phone }))).await.unwrap();
    }
    assert_eq!(numbers.list(None, 10).await.unwrap().total, 4);
    assert_eq!(numbers.get("ñ/☎").unwrap().unwrap().data["as"], "ñ/☎");
    assert!(numbers.get("5730").unwrap().is_none());
    assert!(numbers.get("").unwrap().is_none() && !numbers.delete(String::new()).await.unwrap());
    assert!(matches!(numbers.save(String::new(), None, Map::new()).await, Err(Error::Invalid(_))));
    assert!(matches!(numbers.save("1".repeat(129), None, Map::new()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn entry_data_may_be_large_up_to_its_limit() {
    let bench = ContactsFixture::open();
    let numbers = bench.address_book();
    let large = object(json!({ "text": "x".repeat(60_000) }));
    numbers.save("1".into(), None, large.clone()).await.unwrap();
    assert_eq!(numbers.get("1").unwrap().unwrap().data, large);
    let more = object(json!({ "more": "y".repeat(10_000) }));
    assert!(matches!(numbers.change("1".into(), more).await, Err(Error::TooLarge { field: "data", .. })));
    assert_eq!(numbers.get("1").unwrap().unwrap().data, large, "a change that is refused changes nothing");
    let too_large = object(json!({ "text": "x".repeat(70_000) }));
    assert!(numbers.save("2".into(), None, too_large).await.is_err());
}

#[tokio::test]
async fn address_book_pages_counts_and_clears_twenty_thousand_entries() {
    const ALL: usize = 20_000;
    let bench = ContactsFixture::open();
    let numbers = bench.address_book();
    for batch in 0..20 {
        let saving = (0..ALL / 20).map(|n| {
            let (numbers, phone) = (numbers.clone(), format!("57{:08}", batch * (ALL / 20) + n));
            async move { numbers.save(phone, None, object(json!({ "id": n }))).await.unwrap() }
        });
        futures_util::future::join_all(saving).await;
    }
    let (mut seen, mut after) = (std::collections::BTreeSet::new(), None);
    loop {
        let (page, next, total) = phones(&numbers, after, 999).await;
        assert_eq!(total, ALL as u64);
        assert!(page.len() == 999 || next.is_none());
        seen.extend(page);
        match next {
            Some(_) => after = next,
            None => break,
        }
    }
    assert_eq!(seen.len(), ALL);
    let began = std::time::Instant::now();
    for phone in seen.iter().take(1000) {
        assert!(numbers.get(phone).unwrap().is_some());
    }
    assert!(began.elapsed() < Duration::from_secs(1), "a thousand lookups took {:?}", began.elapsed());
    assert_eq!(numbers.clear().await.unwrap(), ALL as u64);
    assert_eq!(phones(&numbers, None, 10).await, (vec![], None, 0));
    numbers.save("1".into(), None, Map::new()).await.unwrap();
    assert_eq!(phones(&numbers, None, 10).await, (vec!["1".to_owned()], None, 1));
}

#[tokio::test]
async fn find_in_reads_within_the_transaction() {
    let bench = ContactsFixture::open();
    bench.address_book().save("573001234567".into(), Some("Ana".into()), Map::new()).await.unwrap();
    let found = bench
        .store
        .write(|tx| Ok((find_in(tx, "573001234567")?, find_in(tx, "+573001234567")?, find_in(tx, "")?)));
    let (known, other, nobody) = found.await.unwrap();
    assert_eq!(known.unwrap().name.as_deref(), Some("Ana"));
    assert_eq!((other, nobody), (None, None));
}

#[tokio::test]
async fn recipient_is_suppressed_once_and_keeps_the_first_reason() {
    let bench = ContactsFixture::open();
    let list = SuppressionList::new(bench.store.clone(), bench.clock);
    let who = |text: &str| text.parse::<Recipient>().unwrap();
    let (ana, at) = (who("+57 300 123 4567"), bench.clock.now());
    let same = ana.clone();
    assert!(bench.store.write(move |tx| suppress(tx, &same, SuppressionReason::Keyword, at)).await.unwrap());
    let people = vec![who("573001234567"), who("573001234568"), who("CO.abc"), who("573001234568")];
    let entered = list.add(people, SuppressionReason::File, Some("import".to_owned())).await.unwrap();
    assert_eq!((entered.added, entered.existing), (2, 2));
    assert!(list.contains(&ana).unwrap() && !list.contains(&who("573001234569")).unwrap());
    assert_eq!(list.get(&ana).unwrap().unwrap().reason, SuppressionReason::Keyword);
    let first = list.list(None, 2).await.unwrap();
    assert_eq!(
        first.iter().map(|entry| entry.recipient.to_string()).collect::<Vec<_>>(),
        ["573001234567", "573001234568"]
    );
    let rest = list.list(Some(first[1].recipient.clone()), 2).await.unwrap();
    assert_eq!((rest.len(), rest[0].note.as_deref()), (1, Some("import")));
    assert!(list.release(ana.clone()).await.unwrap() && !list.contains(&ana).unwrap());
    assert!(!bench.store.write(move |tx| release(tx, &ana)).await.unwrap());
}
