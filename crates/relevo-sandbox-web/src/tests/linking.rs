//! Devices come and go.

use std::time::Duration;

use relevo_linked_device::client::pair_code::PairCodeOptions;
use relevo_linked_device::client::prelude::Event;

use super::{ALICE, BOB, Client, alone, web};
use crate::{Ejection, Fault, Rule, Turn};

#[tokio::test]
async fn a_phone_scans_a_code_and_the_device_logs_in() {
    let (web, phone, client) = alone().await;
    assert_eq!(phone.devices(), [1]);
    web.until(|web| web.is_online(&web.phone(ALICE), 1)).await;
    let snapshot = client.bot.client().persistence_manager().get_device_snapshot();
    assert_eq!(snapshot.pn.as_ref().unwrap().to_string(), "15550000001:1@s.whatsapp.net");
    assert_eq!(snapshot.lid.as_ref().unwrap().to_non_ad(), phone.lid());
}

#[tokio::test]
async fn a_code_is_typed_into_the_phone() {
    let web = web().await;
    let phone = web.phone(ALICE);
    let client = Client::start(&web, "code").await;
    client.qr().await;
    let options = PairCodeOptions { phone_number: ALICE.into(), ..Default::default() };
    let code = client.bot.client().pair_with_code(options).await.unwrap();
    phone.type_code(&code).await.unwrap();
    client.wait("the link", |event| matches!(event, Event::PairSuccess(_)).then_some(())).await;
    client.connected().await;
    assert_eq!(phone.devices(), [1]);
}

#[tokio::test]
async fn a_wrong_code_links_nothing() {
    let web = web().await;
    let phone = web.phone(ALICE);
    let client = Client::start(&web, "code").await;
    client.qr().await;
    let options = PairCodeOptions { phone_number: ALICE.into(), ..Default::default() };
    let code = client.bot.client().pair_with_code(options).await.unwrap();
    let wrong = if code.starts_with('1') { code.replacen('1', "2", 1) } else { format!("1{}", &code[1..]) };
    phone.type_code(&wrong).await.unwrap();
    web.until(|web| web.queries().contains_key("set md link_code_companion_reg")).await;
    assert!(phone.devices().is_empty());
    // The right one still counts.
    phone.type_code(&code).await.unwrap();
    client.wait("the link", |event| matches!(event, Event::PairSuccess(_)).then_some(())).await;
}

#[tokio::test]
async fn a_device_comes_back_by_the_short_handshake_or_falls_back() {
    let (web, phone, client) = alone().await;
    web.eject(&phone, None, Ejection::Cut);
    client.connected().await;
    web.renew_noise_key();
    web.eject(&phone, None, Ejection::Cut);
    client.connected().await;
    let client = client.again(&web).await;
    client.connected().await;
    assert_eq!(phone.devices(), [1]);
}

#[tokio::test]
async fn the_phone_unlinks_a_device_which_hears_of_it() {
    let (_web, phone, client) = alone().await;
    phone.unlink(1).unwrap();
    client.wait("the end", |event| matches!(event, Event::LoggedOut(_)).then_some(())).await;
    assert!(phone.devices().is_empty());
    assert!(phone.unlink(1).is_err());
}

#[tokio::test]
async fn a_device_unlinks_itself() {
    let (web, phone, client) = alone().await;
    client.bot.client().logout().await;
    web.until(|_| phone.devices().is_empty()).await;
}

#[tokio::test]
async fn a_login_is_refused_for_the_reason_that_a_fault_gives() {
    for (reason, expires_in_s) in [(401, None), (402, Some(3600)), (403, None), (405, None), (503, None)] {
        let (web, phone, client) = alone().await;
        web.arm(Rule::once(ALICE, Fault::RefuseLogin { reason, expires_in_s })).unwrap();
        web.eject(&phone, None, Ejection::Cut);
        let heard = client.wait("the refusal", |event| match event {
            Event::LoggedOut(_) if matches!(reason, 401 | 403) => Some(()),
            Event::TemporaryBan(ban) if reason == 402 => {
                assert_eq!(ban.expire.num_seconds(), 3600);
                Some(())
            }
            Event::ClientOutdated(_) if reason == 405 => Some(()),
            // It comes again by itself.
            Event::ConnectFailure(_) if reason == 503 => Some(()),
            _ => None,
        });
        heard.await;
        assert!(web.connections().iter().any(|moment| moment.turn == Turn::Refused));
    }
}

#[tokio::test]
async fn a_second_client_replaces_the_first() {
    let (web, phone, client) = alone().await;
    web.eject(&phone, None, Ejection::Replaced);
    client.wait("the end", |event| matches!(event, Event::StreamReplaced(_)).then_some(())).await;
}

#[tokio::test]
async fn a_device_that_is_told_515_comes_again() {
    let (web, phone, client) = alone().await;
    let before = web.logins();
    web.eject(&phone, None, Ejection::Error(515));
    client.connected().await;
    assert_eq!(web.logins(), before + 1);
}

#[tokio::test]
async fn everybody_comes_back_after_a_restart() {
    let (web, _, client) = alone().await;
    let before = web.logins();
    web.restart(Duration::from_millis(100));
    client.connected().await;
    web.until(|web| web.online() == 1).await;
    assert_eq!(web.logins(), before + 1);
    assert!(web.connections().iter().any(|moment| moment.turn == Turn::Closed));
}

#[tokio::test]
async fn a_phone_gives_its_device_the_history() {
    let web = web().await;
    let (phone, bob) = (web.phone(ALICE), web.phone(BOB));
    let client = Client::with_history(&web, "history").await;
    phone.scan(&client.qr().await).unwrap();
    client.connected().await;
    phone.send_history(1, &[(bob.jid(), "long ago")]).unwrap();
    let history = client.wait("the history", |event| match event {
        Event::HistorySync(history) => Some(history.clone()),
        _ => None,
    });
    let conversations = history.await.get().unwrap().conversations.clone();
    assert_eq!(conversations.len(), 1);
    assert_eq!(conversations[0].id, bob.jid().to_string());
}
