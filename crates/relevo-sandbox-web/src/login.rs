//! Who is at the other end of a new tunnel: a device that logs in, or one that wants to be linked.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::buffa::{self, Message as _};
use relevo_linked_device::client::waproto::whatsapp::ClientPayload;
use tokio::sync::Notify;

use crate::accounts::{AddressingMode, DeviceId};
use crate::faults::{Fault, FaultStage};
use crate::pairing::{self, UnpairedDevice};
use crate::registry::{ConnectionId, ConnectionPeer, Registry};
use crate::routing;
use crate::server_state::ServerState;
use crate::stats::ConnectionTransition;

/// Why a payload makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the payload is no protobuf: {0}")]
    Protobuf(#[from] buffa::DecodeError),
    #[error("the payload names neither a device nor keys to register")]
    MissingDevice,
    #[error("the keys to register are incomplete")]
    IncompleteKeys,
}

/// Places where a server says it is. Source: none; a client logs it.
const LOCATION: &str = "sandbox";

/// Lets a connection in, or prepares its refusal.
///
/// # Errors
/// When the payload is malformed.
pub fn accept_client(shared: &ServerState, payload: &[u8], wake: Arc<Notify>) -> Result<ConnectionId, Error> {
    let payload = ClientPayload::decode_from_slice(payload)?;
    let link = if let Some(data) = payload.device_pairing_data.as_option() {
        let newcomer = UnpairedDevice::new(data).ok_or(Error::IncompleteKeys)?;
        let mut hub = shared.registry();
        let link = hub.connect(ConnectionPeer::Unpaired(Box::new(newcomer)), wake);
        pairing::send_qr_refs(&mut hub, link);
        link
    } else {
        let phone_number = payload.username.ok_or(Error::MissingDevice)?.to_string();
        let number = u16::try_from(payload.device.unwrap_or(0)).map_err(|_| Error::MissingDevice)?;
        log_in(shared, &phone_number, number, payload.push_name.as_deref(), wake)
    };
    shared.changed.notify_waiters();
    Ok(link)
}

fn log_in(
    shared: &ServerState,
    phone_number: &str,
    number: u16,
    name: Option<&str>,
    wake: Arc<Notify>,
) -> ConnectionId {
    let fault = shared.faults.trigger(FaultStage::Login, phone_number, number);
    let shown = Some(format!("{phone_number}:{number}"));
    let mut hub = shared.registry();
    let known = hub.directory.find(phone_number).map(|account| DeviceId { account, number });
    let known = known.filter(|device| hub.directory.device(*device).is_some());
    let (Some(device), None) = (known, &fault) else {
        let link = hub.connect(ConnectionPeer::Refused, wake);
        match fault {
            Some(Fault::IgnoreLogin) => hub.mute(link, true),
            Some(Fault::BreakLogin { code }) => hub.close(link, Some(stream_error(code))),
            Some(Fault::RefuseLogin { reason, expires_in_s }) => {
                hub.close(link, Some(failure_node(reason, expires_in_s)));
            }
            // What a device hears that its phone has unlinked.
            _ => hub.close(link, Some(failure_node(401, None))),
        }
        shared.stats.record_connection(shared.clock.now(), ConnectionTransition::Refused, shown);
        return link;
    };
    let link = hub.connect(ConnectionPeer::Device(device), wake);
    let earlier = hub.directory.device_mut(device).and_then(|device| device.connection.replace(link));
    if let Some(earlier) = earlier {
        hub.replace(earlier, conflict_error("replaced"));
    }
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        hub.directory.account_mut(device.account).name = name.to_owned();
    }
    let lid = hub.directory.device_jid(device, AddressingMode::Lid);
    let success = NodeBuilder::new("success")
        .attr("t", shared.seconds())
        .attr("lid", lid)
        .attr("location", LOCATION)
        .attr("creation", shared.seconds())
        .build();
    hub.reply(link, success);
    if name.is_none_or(str::is_empty) {
        send_push_name(shared, &mut hub, device);
    }
    shared.stats.record_connection(shared.clock.now(), ConnectionTransition::LoggedIn, shown);
    link
}

/// Tells a device what its account is called. It then logs in with that name; without one it waits at each login for its
/// phone to tell it.
fn send_push_name(shared: &ServerState, hub: &mut Registry, device: DeviceId) {
    let notification = NodeBuilder::new("notification")
        .attr("from", hub.directory.user_jid(device.account, AddressingMode::PhoneNumber))
        .attr("type", "account_sync")
        .attr("id", hub.next_id())
        .attr("t", shared.seconds())
        .attr("pushname", hub.directory.account(device.account).name.as_str());
    // To a linked device: nothing of it is for a phone.
    hub.deliver(device, Arc::new(notification.build()), &mut Vec::new());
}

/// Notes that a connection ended.
pub fn handle_disconnect(shared: &Arc<ServerState>, link: ConnectionId) {
    let mut hub = shared.registry();
    let mut mail = Vec::new();
    let shown = hub.disconnect(link).map(|(device, gone)| {
        if gone {
            routing::set_offline(shared, &mut hub, device, &mut mail);
        }
        device_name(&hub, device)
    });
    drop(hub);
    shared.stats.record_connection(shared.clock.now(), ConnectionTransition::Closed, shown);
    shared.deliver_to_phones(mail);
}

/// A device as statistics and the journal name it.
pub fn device_name(hub: &Registry, device: DeviceId) -> String {
    let account = hub.directory.account(device.account);
    format!("{}:{}", account.phone_number, device.number)
}

/// `<failure>`: why there will be no login.
fn failure_node(reason: u16, expires_in_s: Option<u64>) -> Node {
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
pub fn conflict_error(kind: &str) -> Node {
    let conflict = NodeBuilder::new("conflict").attr("type", kind).build();
    let code: u16 = if kind == "replaced" { 409 } else { 401 };
    NodeBuilder::new("stream:error").attr("code", code).children([conflict]).build()
}
