//! Tests of the backoff, of the last save of a device, and of the ends of connections.

use futures_util::FutureExt as _;
use whatsapp_rust::chrono;
use whatsapp_rust::types::events::{
    ClientOutdated, ConnectFailure, Connected, LoggedOut, PairError, StreamReplaced, TempBanReason,
    TemporaryBan,
};

use super::*;
use relevo_clock::Random;
use relevo_metrics::Metrics;
use relevo_store::{DataFolder, Options, Store};

const NOW: Timestamp = Timestamp(1_763_800_000_000);

#[test]
fn backoff_grows_with_jitter() {
    let max_delay = Duration::from_secs(60);
    let range = |failures| {
        let backoff = backoff(failures, max_delay);
        (backoff.delay(failures, 0.0).as_millis(), backoff.delay(failures, 1.0).as_millis())
    };
    assert_eq!(range(1), (500, 5_000));
    assert_eq!(range(2), (5_000, 10_000));
    assert_eq!(range(4), (20_000, 40_000));
    assert_eq!(range(5), (30_000, 60_000));
    assert_eq!(range(1_000), (30_000, 60_000));
}

#[tokio::test]
async fn interrupted_device_save_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(dir.path()).unwrap();
    let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
    let random = Random::seeded(1);
    let client = async || {
        let backend = SledBackend::new(store.clone(), InstanceNumber::FIRST, random.value(), Arc::default());
        PersistenceManager::new(Arc::new(backend)).await.unwrap()
    };
    let ended = client().await;
    ended.modify_device(|device| device.push_name = "Shop".to_owned()).await;
    let device = ended.get_device_arc().await;
    let write_lock = device.write().await;
    assert!(ended.flush().now_or_never().is_none(), "the save waits for the device");
    drop(write_lock);
    // The client's own last save does nothing.
    ended.flush().await.unwrap();
    save_device(&ended).await.unwrap();
    assert_eq!(client().await.get_device_snapshot().push_name, "Shop");
}

fn link_end(event: &Event, paired: bool) -> Option<LinkEnd> {
    match end_from_event(event, paired, NOW)? {
        ConnectionEnd::Final(LinkEvent::Ended(end)) => Some(end),
        other => panic!("{other:?}"),
    }
}

fn logged_out(reason: ConnectFailureReason) -> Event {
    Event::LoggedOut(LoggedOut::builder().on_connect(true).reason(reason).build())
}

#[test]
fn every_link_end_is_distinguished() {
    let replaced = Event::StreamReplaced(StreamReplaced::builder().build());
    let outdated = Event::ClientOutdated(ClientOutdated::builder().build());
    assert_eq!(link_end(&replaced, true), Some(LinkEnd::Replaced));
    assert_eq!(link_end(&outdated, true), Some(LinkEnd::ClientOutdated));
    assert_eq!(link_end(&logged_out(ConnectFailureReason::LoggedOut), true), Some(LinkEnd::LoggedOut));
    let locked = link_end(&logged_out(ConnectFailureReason::AccountLocked), true);
    assert!(matches!(locked, Some(LinkEnd::Banned { until: None, .. })), "{locked:?}");
    let ban = TemporaryBan::builder()
        .code(TempBanReason::BlockedByUsers)
        .expire(chrono::Duration::hours(2))
        .build();
    let Some(LinkEnd::Banned { until, reason }) = link_end(&Event::TemporaryBan(ban), true) else { panic!() };
    assert_eq!(until, Some(NOW + Duration::from_secs(7200)));
    assert!(reason.contains("blocked you"), "{reason}");
}

#[test]
fn pairing_failure_names_its_reason() {
    let failed = PairError::builder()
        .id("573001234567@s.whatsapp.net".parse().unwrap())
        .lid("1234567890@lid".parse().unwrap())
        .business_name(String::new())
        .platform(String::new())
        .error("401: signature-mismatch".to_owned())
        .build();
    let Some(LinkEnd::PairingFailed(reason)) = link_end(&Event::PairError(failed), false) else { panic!() };
    assert!(reason.contains("hosted") && reason.contains("signature-mismatch"), "{reason}");
    let removed = link_end(&logged_out(ConnectFailureReason::LoggedOut), false);
    assert!(matches!(removed, Some(LinkEnd::PairingFailed(_))), "{removed:?}");
}

#[test]
fn transient_failure_is_retried() {
    let failure = |reason| Event::ConnectFailure(ConnectFailure::builder().reason(reason).build());
    let lost = end_from_event(&failure(ConnectFailureReason::ServiceUnavailable), true, NOW);
    assert!(matches!(lost, Some(ConnectionEnd::Lost(_))), "{lost:?}");
    let banned = link_end(&failure(ConnectFailureReason::TempBanned), true);
    assert!(matches!(banned, Some(LinkEnd::Banned { until: None, .. })), "{banned:?}");
    assert_eq!(end_from_event(&Event::Connected(Connected::builder().build()), true, NOW), None);
}
