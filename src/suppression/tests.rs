//! The suppression list on a store in a temporary folder.

use relevo_clock::Clock;
use relevo_domain::{IdentityChange, Recipient, Timestamp};
use relevo_metrics::Metrics;
use relevo_store::{self as store, DataFolder, Key, Space, Store};

use super::{SuppressionList, SuppressionReason, carry_over, release, suppress};

#[tokio::test]
async fn recipient_is_suppressed_once_and_keeps_the_first_reason() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path()).unwrap();
    let (store, _) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
    let clock = Clock::from_tokio(Timestamp(1_700_000_000_000));
    let list = SuppressionList::new(store.clone(), clock);
    let recipient = |text: &str| text.parse::<Recipient>().unwrap();
    let (ana, at) = (recipient("+57 300 123 4567"), clock.now());
    let same = ana.clone();
    assert!(store.write(move |tx| suppress(tx, &same, SuppressionReason::Keyword, at)).await.unwrap());
    let recipients = ["573001234567", "573001234568", "CO.abc", "573001234568"].map(recipient).to_vec();
    let summary = list.add(recipients, SuppressionReason::File, Some("import".to_owned())).await.unwrap();
    assert_eq!((summary.added, summary.existing), (2, 2));
    assert!(list.contains(&ana).unwrap() && !list.contains(&recipient("573001234569")).unwrap());
    assert_eq!(list.get(&ana).unwrap().unwrap().reason, SuppressionReason::Keyword);
    let first = list.list(None, 2).await.unwrap();
    assert_eq!(
        first.iter().map(|entry| entry.recipient.to_string()).collect::<Vec<_>>(),
        ["573001234567", "573001234568"]
    );
    let rest = list.list(Some(first[1].recipient.clone()), 2).await.unwrap();
    assert_eq!((rest.len(), rest[0].note.as_deref()), (1, Some("import")));
    assert!(list.release(ana.clone()).await.unwrap() && !list.contains(&ana).unwrap());
    assert!(!store.write(move |tx| release(tx, &ana)).await.unwrap());
}

struct ListFixture {
    list: SuppressionList,
    store: Store,
    _folder: DataFolder,
    _dir: tempfile::TempDir,
}

fn open_list() -> ListFixture {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path()).unwrap();
    let (store, _) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
    let list = SuppressionList::new(store.clone(), Clock::from_tokio(Timestamp(1_700_000_000_000)));
    ListFixture { list, store, _folder: folder, _dir: dir }
}

fn recipients(texts: &[&str]) -> Vec<Recipient> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn person_is_found_in_both_spellings() {
    let fixture = open_list();
    let list = &fixture.list;
    for (added, asked) in [
        ("558587654321", "5585987654321"),
        ("5571991234567", "557191234567"),
        ("5215512345678", "525512345678"),
        ("541123456789", "5491123456789"),
        ("2250707123456", "22507123456"),
    ] {
        let asked: Recipient = asked.parse().unwrap();
        assert!(!list.contains(&asked).unwrap());
        list.add(recipients(&[added]), SuppressionReason::Api, None).await.unwrap();
        assert!(list.contains(&asked).unwrap(), "{added}");
        assert_eq!(list.get(&asked).unwrap().unwrap().recipient.to_string(), added);
        let again = list.add(vec![asked.clone()], SuppressionReason::File, None).await.unwrap();
        assert_eq!((again.added, again.existing), (0, 1));
        assert!(list.release(asked.clone()).await.unwrap());
        assert!(!list.contains(&asked).unwrap() && list.list(None, 9).await.unwrap().is_empty());
    }
    list.add(recipients(&["551133334444"]), SuppressionReason::Api, None).await.unwrap();
    assert!(!list.contains(&"5511933334444".parse().unwrap()).unwrap(), "a landline has one spelling");
}

#[tokio::test]
async fn entry_of_an_earlier_version_is_found_listed_and_released() {
    let fixture = open_list();
    let (list, store) = (&fixture.list, &fixture.store);
    let ana: Recipient = "573001234567".parse().unwrap();
    list.add(vec![ana.clone()], SuppressionReason::File, None).await.unwrap();
    let key = |text: &str| Key::new(Space::Suppressed).bytes(text.as_bytes());
    let record = store.get(&key("573001234567")).unwrap().unwrap();
    let earlier = ["00573001234567", "0718139912", "12345678901"];
    store
        .write(move |tx| {
            tx.delete(key("573001234567"))?;
            earlier.into_iter().try_for_each(|text| tx.put(key(text), record.clone()))
        })
        .await
        .unwrap();
    assert!(list.contains(&ana).unwrap());
    let listed: Vec<_> = list.list(None, 9).await.unwrap();
    assert_eq!(listed.iter().map(|entry| entry.recipient.to_string()).collect::<Vec<_>>(), earlier);
    assert!(list.release(ana.clone()).await.unwrap() && !list.contains(&ana).unwrap());
}

#[tokio::test]
async fn entry_follows_a_person_to_new_names() {
    let fixture = open_list();
    let (list, store) = (&fixture.list, &fixture.store);
    let change = |former: &[&str], current: &[&str]| {
        IdentityChange::new(recipients(former), recipients(current)).unwrap()
    };
    let on_list = |text: &str| list.contains(&text.parse().unwrap()).unwrap();
    let moved = change(&["5585987654321", "BR.1"], &["573009999902", "CO.2"]);
    let unknown = moved.clone();
    assert_eq!(store.write(move |tx| carry_over(tx, &unknown, true)).await.unwrap(), None);
    list.add(recipients(&["558587654321"]), SuppressionReason::Keyword, None).await.unwrap();
    let copied = moved.clone();
    let reason = store.write(move |tx| carry_over(tx, &copied, false)).await.unwrap();
    assert_eq!(reason, Some(SuppressionReason::Keyword));
    assert!(["558587654321", "573009999902", "CO.2"].into_iter().all(on_list) && !on_list("BR.1"));
    assert_eq!(store.write(move |tx| carry_over(tx, &moved, true)).await.unwrap(), None);
    assert!(!on_list("558587654321") && on_list("573009999902") && on_list("CO.2"));
    let kept = change(&["CO.2"], &["CO.3", "573009999902"]);
    assert!(store.write(move |tx| carry_over(tx, &kept, true)).await.unwrap().is_some());
    assert!(!on_list("CO.2") && on_list("CO.3"));
}
