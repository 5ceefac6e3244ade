//! The address book on a store in a temporary folder.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use relevo_clock::Clock;
use relevo_domain::Timestamp;
use relevo_metrics::Metrics;
use relevo_store::{self as store, DataFolder, Store};

use super::{AddressBook, Error, SaveOutcome, change_phone, find_in, find_person_in};

struct AddressBookFixture {
    store: Store,
    clock: Clock,
    _folder: (DataFolder, TempDir),
}

impl AddressBookFixture {
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

async fn phones(book: &AddressBook, after: Option<u64>, limit: usize) -> (Vec<String>, Option<u64>, u64) {
    let listed = book.list(after, limit).await.unwrap();
    (listed.entries.into_iter().map(|entry| entry.phone).collect(), listed.next, listed.total)
}

#[tokio::test]
async fn saving_again_replaces_the_entry_and_lists_it_first() {
    let fixture = AddressBookFixture::open();
    let book = fixture.address_book();
    let old = object(json!({ "email": "a@b.c" }));
    assert_eq!(book.save("1".into(), Some("Ana".into()), old).await.unwrap(), SaveOutcome::Created);
    assert_eq!(book.save("2".into(), None, Map::new()).await.unwrap(), SaveOutcome::Created);
    assert_eq!(phones(&book, None, 10).await, (vec!["2".to_owned(), "1".to_owned()], None, 2));
    assert_eq!(book.save("1".into(), None, Map::new()).await.unwrap(), SaveOutcome::Replaced);
    assert_eq!(phones(&book, None, 10).await, (vec!["1".to_owned(), "2".to_owned()], None, 2));
    let found = book.get("1").unwrap().unwrap();
    assert_eq!((found.name, found.data), (None, Map::new()));
    assert!(book.change("2".into(), object(json!({ "x": 1 }))).await.unwrap());
    assert!(!book.change("3".into(), object(json!({ "x": 1 }))).await.unwrap());
    assert_eq!(phones(&book, None, 10).await.0, ["2", "1"]);
    assert!(book.delete("2".into()).await.unwrap());
    assert!(!book.delete("2".into()).await.unwrap());
    assert_eq!(phones(&book, None, 10).await, (vec!["1".to_owned()], None, 1));
}

#[tokio::test]
async fn phones_are_stored_verbatim() {
    let fixture = AddressBookFixture::open();
    let book = fixture.address_book();
    for phone in ["+57 300", "57300", "ñ/☎", " "] {
        book.save(phone.into(), None, object(json!({ "as": phone }))).await.unwrap();
    }
    assert_eq!(book.list(None, 10).await.unwrap().total, 4);
    assert_eq!(book.get("ñ/☎").unwrap().unwrap().data["as"], "ñ/☎");
    assert!(book.get("5730").unwrap().is_none());
    assert!(book.get("").unwrap().is_none() && !book.delete(String::new()).await.unwrap());
    assert!(matches!(book.save(String::new(), None, Map::new()).await, Err(Error::Invalid(_))));
    assert!(matches!(book.save("1".repeat(129), None, Map::new()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn entry_data_may_be_large_up_to_its_limit() {
    let fixture = AddressBookFixture::open();
    let book = fixture.address_book();
    let large = object(json!({ "text": "x".repeat(60_000) }));
    book.save("1".into(), None, large.clone()).await.unwrap();
    assert_eq!(book.get("1").unwrap().unwrap().data, large);
    let more = object(json!({ "more": "y".repeat(10_000) }));
    assert!(matches!(book.change("1".into(), more).await, Err(Error::TooLarge { field: "data", .. })));
    assert_eq!(book.get("1").unwrap().unwrap().data, large, "a rejected change leaves the entry as it was");
    let too_large = object(json!({ "text": "x".repeat(70_000) }));
    assert!(book.save("2".into(), None, too_large).await.is_err());
}

#[tokio::test]
async fn address_book_pages_counts_and_clears_twenty_thousand_entries() {
    const ALL: usize = 20_000;
    let fixture = AddressBookFixture::open();
    let book = fixture.address_book();
    for batch in 0..20 {
        let saving = (0..ALL / 20).map(|n| {
            let (book, phone) = (book.clone(), format!("57{:08}", batch * (ALL / 20) + n));
            async move { book.save(phone, None, object(json!({ "id": n }))).await.unwrap() }
        });
        futures_util::future::join_all(saving).await;
    }
    let (mut listed, mut after) = (std::collections::BTreeSet::new(), None);
    loop {
        let (page, next, total) = phones(&book, after, 999).await;
        assert_eq!(total, ALL as u64);
        assert!(page.len() == 999 || next.is_none());
        listed.extend(page);
        match next {
            Some(_) => after = next,
            None => break,
        }
    }
    assert_eq!(listed.len(), ALL);
    let started = tokio::time::Instant::now();
    for phone in listed.iter().take(1000) {
        assert!(book.get(phone).unwrap().is_some());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "1000 lookups took {:?}", started.elapsed());
    assert_eq!(book.clear().await.unwrap(), ALL as u64);
    assert_eq!(phones(&book, None, 10).await, (vec![], None, 0));
    book.save("1".into(), None, Map::new()).await.unwrap();
    assert_eq!(phones(&book, None, 10).await, (vec!["1".to_owned()], None, 1));
}

#[tokio::test]
async fn find_in_reads_within_the_transaction() {
    let fixture = AddressBookFixture::open();
    fixture.address_book().save("573001234567".into(), Some("Ana".into()), Map::new()).await.unwrap();
    let found = fixture
        .store
        .write(|tx| Ok((find_in(tx, "573001234567")?, find_in(tx, "+573001234567")?, find_in(tx, "")?)));
    let (known, other, empty) = found.await.unwrap();
    assert_eq!(known.unwrap().name.as_deref(), Some("Ana"));
    assert_eq!((other, empty), (None, None));
}

#[tokio::test]
async fn entry_is_found_in_both_spellings_and_moves_with_a_changed_number() {
    let fixture = AddressBookFixture::open();
    let book = fixture.address_book();
    book.save("5585987654321".into(), Some("Ana".into()), object(json!({ "vip": true }))).await.unwrap();
    let find = |phone: &'static str| fixture.store.write(move |tx| find_person_in(tx, phone));
    assert_eq!(find("558587654321").await.unwrap().unwrap().phone, "5585987654321");
    assert!(find("558532654321").await.unwrap().is_none() && find("ana").await.unwrap().is_none());
    let change = |former: &str, current: &str| {
        let (former, current) = (former.parse().unwrap(), current.parse().unwrap());
        fixture.store.write(move |tx| change_phone(tx, &former, &current, Timestamp(9)))
    };
    assert!(change("558587654321", "573009999902").await.unwrap());
    assert!(!change("558587654321", "573009999902").await.unwrap());
    let moved = book.get("573009999902").unwrap().unwrap();
    assert_eq!(
        (moved.name.as_deref(), &moved.data["vip"], moved.updated_at),
        (Some("Ana"), &json!(true), Timestamp(9))
    );
    book.save("573001234567".into(), Some("Eva".into()), object(json!({}))).await.unwrap();
    assert!(!change("573009999902", "573001234567").await.unwrap(), "an entry is not replaced");
    assert_eq!(book.list(None, 9).await.unwrap().total, 2);
}
