//! Pairing, login and unlinking of devices.

use std::time::Duration;

use relevo_linked_device::client::pair_code::PairCodeOptions;
use relevo_linked_device::client::prelude::Event;

use super::{ALICE, BOB, TestClient, start_web, start_with_linked_device};
use crate::{ConnectionTransition, Disconnection, Fault, FaultRule};

#[tokio::test]
async fn scanned_qr_code_links_the_device() {
    let (web, phone, client) = start_with_linked_device().await;
    assert_eq!(phone.devices(), [1]);
    web.wait_until(|web| web.is_online(&web.phone(ALICE), 1)).await;
    let snapshot = client.bot.client().persistence_manager().get_device_snapshot();
    assert_eq!(snapshot.pn.as_ref().unwrap().to_string(), "15550000001:1@s.whatsapp.net");
    assert_eq!(snapshot.lid.as_ref().unwrap().to_non_ad(), phone.lid());
}

#[tokio::test]
async fn pairing_code_links_the_device() {
    let web = start_web().await;
    let phone = web.phone(ALICE);
    let client = TestClient::start(&web, "code").await;
    client.wait_for_qr_code().await;
    let options = PairCodeOptions { phone_number: ALICE.into(), ..Default::default() };
    let code = client.bot.client().pair_with_code(options).await.unwrap();
    phone.enter_pairing_code(&code).await.unwrap();
    client.wait("the link", |event| matches!(event, Event::PairSuccess(_)).then_some(())).await;
    client.wait_connected().await;
    assert_eq!(phone.devices(), [1]);
}

#[tokio::test]
async fn wrong_pairing_code_links_no_device() {
    let web = start_web().await;
    let phone = web.phone(ALICE);
    let client = TestClient::start(&web, "code").await;
    client.wait_for_qr_code().await;
    let options = PairCodeOptions { phone_number: ALICE.into(), ..Default::default() };
    let code = client.bot.client().pair_with_code(options).await.unwrap();
    let wrong = if code.starts_with('1') { code.replacen('1', "2", 1) } else { format!("1{}", &code[1..]) };
    phone.enter_pairing_code(&wrong).await.unwrap();
    web.wait_until(|web| web.queries().contains_key("set md link_code_companion_reg")).await;
    assert!(phone.devices().is_empty());
    // The correct code is still valid.
    phone.enter_pairing_code(&code).await.unwrap();
    client.wait("the link", |event| matches!(event, Event::PairSuccess(_)).then_some(())).await;
}

#[tokio::test]
async fn device_reconnects_with_ik_or_falls_back_to_xx() {
    let (web, phone, client) = start_with_linked_device().await;
    web.disconnect(&phone, None, Disconnection::Cut);
    client.wait_connected().await;
    web.rotate_noise_key();
    web.disconnect(&phone, None, Disconnection::Cut);
    client.wait_connected().await;
    let client = client.restart(&web).await;
    client.wait_connected().await;
    assert_eq!(phone.devices(), [1]);
}

#[tokio::test]
async fn device_is_logged_out_when_the_phone_unlinks_it() {
    let (_web, phone, client) = start_with_linked_device().await;
    phone.unlink(1).unwrap();
    client.wait("the end", |event| matches!(event, Event::LoggedOut(_)).then_some(())).await;
    assert!(phone.devices().is_empty());
    assert!(phone.unlink(1).is_err());
}

#[tokio::test]
async fn device_can_unlink_itself() {
    let (web, phone, client) = start_with_linked_device().await;
    client.bot.client().logout().await;
    web.wait_until(|_| phone.devices().is_empty()).await;
}

#[tokio::test]
async fn refuse_login_fault_refuses_with_its_reason() {
    for (reason, expires_in_s) in [(401, None), (402, Some(3600)), (403, None), (405, None), (503, None)] {
        let (web, phone, client) = start_with_linked_device().await;
        web.arm(FaultRule::once(ALICE, Fault::RefuseLogin { reason, expires_in_s })).unwrap();
        web.disconnect(&phone, None, Disconnection::Cut);
        let heard = client.wait("the refusal", |event| match event {
            Event::LoggedOut(_) if matches!(reason, 401 | 403) => Some(()),
            Event::TemporaryBan(ban) if reason == 402 => {
                assert_eq!(ban.expire.num_seconds(), 3600);
                Some(())
            }
            Event::ClientOutdated(_) if reason == 405 => Some(()),
            // The client reconnects by itself.
            Event::ConnectFailure(_) if reason == 503 => Some(()),
            _ => None,
        });
        heard.await;
        assert!(web.connection_records().iter().any(|moment| moment.turn == ConnectionTransition::Refused));
    }
}

#[tokio::test]
async fn second_client_replaces_the_first() {
    let (web, phone, client) = start_with_linked_device().await;
    web.disconnect(&phone, None, Disconnection::Replaced);
    client.wait("the end", |event| matches!(event, Event::StreamReplaced(_)).then_some(())).await;
}

#[tokio::test]
async fn device_reconnects_after_stream_error_515() {
    let (web, phone, client) = start_with_linked_device().await;
    let before = web.logins();
    web.disconnect(&phone, None, Disconnection::Error(515));
    client.wait_connected().await;
    assert_eq!(web.logins(), before + 1);
}

#[tokio::test]
async fn devices_reconnect_after_a_restart() {
    let (web, _, client) = start_with_linked_device().await;
    let before = web.logins();
    web.restart(Duration::from_millis(100));
    client.wait_connected().await;
    web.wait_until(|web| web.online_count() == 1).await;
    assert_eq!(web.logins(), before + 1);
    assert!(web.connection_records().iter().any(|moment| moment.turn == ConnectionTransition::Closed));
}

#[tokio::test]
async fn phone_sends_history_to_its_device() {
    let web = start_web().await;
    let (phone, bob) = (web.phone(ALICE), web.phone(BOB));
    let client = TestClient::with_history(&web, "history").await;
    phone.scan(&client.wait_for_qr_code().await).unwrap();
    client.wait_connected().await;
    phone.send_history(1, &[(bob.jid(), "long ago")]).unwrap();
    let history = client.wait("the history", |event| match event {
        Event::HistorySync(history) => Some(history.clone()),
        _ => None,
    });
    let conversations = history.await.get().unwrap().conversations.clone();
    assert_eq!(conversations.len(), 1);
    assert_eq!(conversations[0].id, bob.jid().to_string());
}
