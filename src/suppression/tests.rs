//! The suppression list on a store in a temporary folder.

use relevo_clock::Clock;
use relevo_domain::{Recipient, Timestamp};
use relevo_metrics::Metrics;
use relevo_store::{self as store, DataFolder, Store};

use super::{SuppressionList, SuppressionReason, release, suppress};

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
