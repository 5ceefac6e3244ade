use futures_util::FutureExt as _;
use whatsapp_rust::chrono;
use whatsapp_rust::types::events::{
    ClientOutdated, ConnectFailure, Connected, LoggedOut, PairError, StreamReplaced, TempBanReason,
    TemporaryBan,
};

use super::*;
use relevo_metrics::Metrics;
use relevo_store::{Folder, Options, Store};

const NOW: Timestamp = Timestamp(1_763_800_000_000);

#[test]
fn pauses_grow_and_spread() {
    let longest = Duration::from_secs(60);
    let range =
        |failures| (pause(failures, longest, 0).as_millis(), pause(failures, longest, u32::MAX).as_millis());
    assert_eq!(range(0), (500, 5_000));
    assert_eq!(range(1), (5_000, 10_000));
    assert_eq!(range(3), (20_000, 40_000));
    assert_eq!(range(4), (30_000, 60_000));
    assert_eq!(range(1_000), (30_000, 60_000));
}

#[tokio::test]
async fn a_save_that_was_cut_short_with_its_client_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
    let client = async || {
        let backend = SledBackend::new(store.clone(), InstanceNumber::FIRST, Arc::default());
        PersistenceManager::new(Arc::new(backend)).await.unwrap()
    };
    let ended = client().await;
    ended.modify_device(|device| device.push_name = "Shop".to_owned()).await;
    let device = ended.get_device_arc().await;
    let moves = device.write().await;
    assert!(ended.flush().now_or_never().is_none(), "it waits for the device");
    drop(moves);
    // The client's own last save has nothing to do.
    ended.flush().await.unwrap();
    save(&ended).await.unwrap();
    assert_eq!(client().await.get_device_snapshot().push_name, "Shop");
}

fn refused(event: &Event, paired: bool) -> Option<Refused> {
    match ending(event, paired, NOW)? {
        End::Over(LinkNews::Refused(refused)) => Some(refused),
        other => panic!("{other:?}"),
    }
}

fn logged_out(reason: ConnectFailureReason) -> Event {
    Event::LoggedOut(LoggedOut::builder().on_connect(true).reason(reason).build())
}

#[test]
fn every_refusal_is_told_apart() {
    let replaced = Event::StreamReplaced(StreamReplaced::builder().build());
    let outdated = Event::ClientOutdated(ClientOutdated::builder().build());
    assert_eq!(refused(&replaced, true), Some(Refused::Replaced));
    assert_eq!(refused(&outdated, true), Some(Refused::Outdated));
    assert_eq!(refused(&logged_out(ConnectFailureReason::LoggedOut), true), Some(Refused::LoggedOut));
    let locked = refused(&logged_out(ConnectFailureReason::AccountLocked), true);
    assert!(matches!(locked, Some(Refused::Banned { until: None, .. })), "{locked:?}");
    let ban = TemporaryBan::builder()
        .code(TempBanReason::BlockedByUsers)
        .expire(chrono::Duration::hours(2))
        .build();
    let Some(Refused::Banned { until, reason }) = refused(&Event::TemporaryBan(ban), true) else { panic!() };
    assert_eq!(until, Some(NOW + Duration::from_secs(7200)));
    assert!(reason.contains("blocked you"), "{reason}");
}

#[test]
fn a_pairing_that_fails_says_what_is_known_about_it() {
    let failed = PairError::builder()
        .id("573001234567@s.whatsapp.net".parse().unwrap())
        .lid("1234567890@lid".parse().unwrap())
        .business_name(String::new())
        .platform(String::new())
        .error("401: signature-mismatch".to_owned())
        .build();
    let Some(Refused::NotPaired(reason)) = refused(&Event::PairError(failed), false) else { panic!() };
    assert!(reason.contains("hosted") && reason.contains("signature-mismatch"), "{reason}");
    let removed = refused(&logged_out(ConnectFailureReason::LoggedOut), false);
    assert!(matches!(removed, Some(Refused::NotPaired(_))), "{removed:?}");
}

#[test]
fn what_may_pass_is_tried_again() {
    let failure = |reason| Event::ConnectFailure(ConnectFailure::builder().reason(reason).build());
    let lost = ending(&failure(ConnectFailureReason::ServiceUnavailable), true, NOW);
    assert!(matches!(lost, Some(End::Lost(_))), "{lost:?}");
    let banned = refused(&failure(ConnectFailureReason::TempBanned), true);
    assert!(matches!(banned, Some(Refused::Banned { until: None, .. })), "{banned:?}");
    assert_eq!(ending(&Event::Connected(Connected::builder().build()), true, NOW), None);
}
