//! Who is at the other end of a new tunnel: a device that logs in, or one that wants to be linked.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::buffa::{self, Message as _};
use relevo_linked_device::client::waproto::whatsapp::ClientPayload;
use tokio::sync::Notify;

use crate::accounts::{DeviceId, Naming};
use crate::faults::{Fault, Moment};
use crate::hub::{Hub, LinkId, Peer};
use crate::pairing::{self, Newcomer};
use crate::routing;
use crate::shared::Shared;
use crate::stats::Turn;

/// Why a payload makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the payload is no protobuf: {0}")]
    Protobuf(#[from] buffa::DecodeError),
    #[error("the payload names neither a device nor keys to register")]
    Nobody,
    #[error("the keys to register are incomplete")]
    Keys,
}

/// Places where a server says it is. Source: none; a client logs it.
const LOCATION: &str = "sandbox";

/// Lets a connection in, or prepares its refusal.
///
/// # Errors
/// When the payload is malformed.
pub fn admit(shared: &Shared, payload: &[u8], wake: Arc<Notify>) -> Result<LinkId, Error> {
    let payload = ClientPayload::decode_from_slice(payload)?;
    let link = if let Some(data) = payload.device_pairing_data.as_option() {
        let newcomer = Newcomer::new(data).ok_or(Error::Keys)?;
        let mut hub = shared.hub();
        let link = hub.connect(Peer::Newcomer(Box::new(newcomer)), wake);
        pairing::offer(&mut hub, link);
        link
    } else {
        let phone_number = payload.username.ok_or(Error::Nobody)?.to_string();
        let number = u16::try_from(payload.device.unwrap_or(0)).map_err(|_| Error::Nobody)?;
        log_in(shared, &phone_number, number, payload.push_name.as_deref(), wake)
    };
    shared.changed.notify_waiters();
    Ok(link)
}

fn log_in(shared: &Shared, phone_number: &str, number: u16, name: Option<&str>, wake: Arc<Notify>) -> LinkId {
    let fault = shared.faults.strike(Moment::Login, phone_number, number);
    let shown = Some(format!("{phone_number}:{number}"));
    let mut hub = shared.hub();
    let known = hub.directory.find(phone_number).map(|account| DeviceId { account, number });
    let known = known.filter(|device| hub.directory.device(*device).is_some());
    let (Some(device), None) = (known, &fault) else {
        let link = hub.connect(Peer::Refused, wake);
        match fault {
            Some(Fault::IgnoreLogin) => hub.mute(link, true),
            Some(Fault::BreakLogin { code }) => hub.close(link, Some(stream_error(code))),
            Some(Fault::RefuseLogin { reason, expires_in_s }) => {
                hub.close(link, Some(failure(reason, expires_in_s)));
            }
            // What a device hears that its phone has unlinked.
            _ => hub.close(link, Some(failure(401, None))),
        }
        shared.stats.turn(shared.clock.now(), Turn::Refused, shown);
        return link;
    };
    let link = hub.connect(Peer::Device(device), wake);
    let earlier = hub.directory.device_mut(device).and_then(|device| device.link.replace(link));
    if let Some(earlier) = earlier {
        hub.replace(earlier, conflict("replaced"));
    }
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        hub.directory.account_mut(device.account).name = name.to_owned();
    }
    let lid = hub.directory.jid(device, Naming::Lid);
    let success = NodeBuilder::new("success")
        .attr("t", shared.seconds())
        .attr("lid", lid)
        .attr("location", LOCATION)
        .attr("creation", shared.seconds())
        .build();
    hub.reply(link, success);
    if name.is_none_or(str::is_empty) {
        tell_name(shared, &mut hub, device);
    }
    shared.stats.turn(shared.clock.now(), Turn::LoggedIn, shown);
    link
}

/// Tells a device what its account is called. It then logs in with that name; without one it waits at each login for its
/// phone to tell it.
fn tell_name(shared: &Shared, hub: &mut Hub, device: DeviceId) {
    let notification = NodeBuilder::new("notification")
        .attr("from", hub.directory.user(device.account, Naming::PhoneNumber))
        .attr("type", "account_sync")
        .attr("id", hub.next_id())
        .attr("t", shared.seconds())
        .attr("pushname", hub.directory.account(device.account).name.as_str());
    // To a linked device: nothing of it is for a phone.
    hub.deliver(device, Arc::new(notification.build()), &mut Vec::new());
}

/// Notes that a connection ended.
pub fn leave(shared: &Arc<Shared>, link: LinkId) {
    let mut hub = shared.hub();
    let mut mail = Vec::new();
    let shown = hub.disconnect(link).map(|(device, gone)| {
        if gone {
            routing::absent(shared, &mut hub, device, &mut mail);
        }
        device_name(&hub, device)
    });
    drop(hub);
    shared.stats.turn(shared.clock.now(), Turn::Closed, shown);
    shared.hand_out(mail);
}

/// A device as statistics and the journal name it.
pub fn device_name(hub: &Hub, device: DeviceId) -> String {
    let account = hub.directory.account(device.account);
    format!("{}:{}", account.phone_number, device.number)
}

/// `<failure>`: why there will be no login.
fn failure(reason: u16, expires_in_s: Option<u64>) -> Node {
    let failure = NodeBuilder::new("failure").attr("reason", reason).attr("location", LOCATION);
    match expires_in_s {
        // 101: too many messages to people who did not want them.
        Some(seconds) => failure.attr("code", 101).attr("expire", seconds).build(),
        None => failure.build(),
    }
}

/// `<stream:error>` with a code.
pub fn stream_error(code: u16) -> Node {
    NodeBuilder::new("stream:error").attr("code", code).build()
}

/// `<stream:error>` for a device that may not stay: `replaced` by another connection, or `device_removed`.
pub fn conflict(kind: &str) -> Node {
    let conflict = NodeBuilder::new("conflict").attr("type", kind).build();
    let code: u16 = if kind == "replaced" { 409 } else { 401 };
    NodeBuilder::new("stream:error").attr("code", code).children([conflict]).build()
}
