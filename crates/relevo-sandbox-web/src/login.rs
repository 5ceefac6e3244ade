//! The start of a connection after its handshake: a device logs in or requests pairing.

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
use crate::router;
use crate::server_state::ServerState;
use crate::stats::ConnectionTransition;

/// Reason why a login payload is malformed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the payload is not a protobuf: {0}")]
    Protobuf(#[from] buffa::DecodeError),
    #[error("the payload contains neither a device nor keys to register")]
    MissingDevice,
    #[error("the keys to register are incomplete")]
    IncompleteKeys,
}

/// The server's location in the login answer. A client only logs it.
const LOCATION: &str = "sandbox";

/// Accepts a connection, or prepares its refusal.
///
/// # Errors
/// The payload is malformed.
pub fn accept_client(shared: &ServerState, payload: &[u8], wake: Arc<Notify>) -> Result<ConnectionId, Error> {
    let payload = ClientPayload::decode_from_slice(payload)?;
    let connection = if let Some(data) = payload.device_pairing_data.as_option() {
        let unpaired = UnpairedDevice::new(data).ok_or(Error::IncompleteKeys)?;
        let mut registry = shared.registry();
        let connection = registry.connect(ConnectionPeer::Unpaired(Box::new(unpaired)), wake);
        pairing::send_qr_refs(&mut registry, &shared.random, connection);
        connection
    } else {
        let phone_number = payload.username.ok_or(Error::MissingDevice)?.to_string();
        let number = u16::try_from(payload.device.unwrap_or(0)).map_err(|_| Error::MissingDevice)?;
        log_in(shared, &phone_number, number, payload.push_name.as_deref(), wake)
    };
    shared.changed.notify_waiters();
    Ok(connection)
}

fn log_in(
    shared: &ServerState,
    phone_number: &str,
    number: u16,
    name: Option<&str>,
    wake: Arc<Notify>,
) -> ConnectionId {
    let fault = shared.faults.trigger(FaultStage::Login, phone_number, number);
    let device_name = Some(format!("{phone_number}:{number}"));
    let mut registry = shared.registry();
    let known = registry.directory.find(phone_number).map(|account| DeviceId { account, number });
    let known = known.filter(|device| registry.directory.device(*device).is_some());
    let (Some(device), None) = (known, &fault) else {
        let connection = registry.connect(ConnectionPeer::Refused, wake);
        match fault {
            Some(Fault::IgnoreLogin) => registry.mute(connection, true),
            Some(Fault::BreakLogin { code }) => registry.close(connection, Some(stream_error(code))),
            Some(Fault::RefuseLogin { reason, expires_in_s }) => {
                registry.close(connection, Some(failure_node(reason, expires_in_s)));
            }
            // The answer to a device that its phone has unlinked.
            _ => registry.close(connection, Some(failure_node(401, None))),
        }
        shared.stats.record_connection(shared.clock.now(), ConnectionTransition::Refused, device_name);
        return connection;
    };
    let connection = registry.connect(ConnectionPeer::Device(device), wake);
    let earlier =
        registry.directory.device_mut(device).and_then(|device| device.connection.replace(connection));
    if let Some(earlier) = earlier {
        registry.replace(earlier, conflict_error("replaced"));
    }
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        registry.directory.account_mut(device.account).name = name.to_owned();
    }
    let lid = registry.directory.device_jid(device, AddressingMode::Lid);
    let success = NodeBuilder::new("success")
        .attr("t", shared.seconds())
        .attr("lid", lid)
        .attr("location", LOCATION)
        .attr("creation", shared.seconds())
        .build();
    registry.reply(connection, success);
    if name.is_none_or(str::is_empty) {
        send_push_name(shared, &mut registry, device);
    }
    shared.stats.record_connection(shared.clock.now(), ConnectionTransition::LoggedIn, device_name);
    connection
}

/// Sends a device the push name of its account. The device logs in with that name from then on; a device without a
/// name waits for it after each login.
fn send_push_name(shared: &ServerState, registry: &mut Registry, device: DeviceId) {
    let notification = NodeBuilder::new("notification")
        .attr("from", registry.directory.user_jid(device.account, AddressingMode::PhoneNumber))
        .attr("type", "account_sync")
        .attr("id", registry.next_id())
        .attr("t", shared.seconds())
        .attr("pushname", registry.directory.account(device.account).name.as_str());
    // The recipient is a linked device, so there are no phone stanzas.
    registry.deliver(device, Arc::new(notification.build()), &mut Vec::new());
}

/// Handles the end of a connection.
pub fn handle_disconnect(shared: &Arc<ServerState>, connection: ConnectionId) {
    let mut registry = shared.registry();
    let mut phone_stanzas = Vec::new();
    let name = registry.disconnect(connection).map(|(device, gone)| {
        if gone {
            router::set_offline(shared, &mut registry, device, &mut phone_stanzas);
        }
        device_name(&registry, device)
    });
    drop(registry);
    shared.stats.record_connection(shared.clock.now(), ConnectionTransition::Closed, name);
    shared.deliver_to_phones(phone_stanzas);
}

/// The name of a device in statistics and the journal.
pub fn device_name(registry: &Registry, device: DeviceId) -> String {
    let account = registry.directory.account(device.account);
    format!("{}:{}", account.phone_number, device.number)
}

/// `<failure>`: the reason of a refused login.
fn failure_node(reason: u16, expires_in_s: Option<u64>) -> Node {
    let failure = NodeBuilder::new("failure").attr("reason", reason).attr("location", LOCATION);
    match expires_in_s {
        // 101: the account sent too many unwanted messages.
        Some(seconds) => failure.attr("code", 101).attr("expire", seconds).build(),
        None => failure.build(),
    }
}

/// `<stream:error>` with a code.
pub fn stream_error(code: u16) -> Node {
    NodeBuilder::new("stream:error").attr("code", code).build()
}

/// `<stream:error>` for a device that must disconnect: `replaced` by another connection, or `device_removed`.
pub fn conflict_error(kind: &str) -> Node {
    let conflict = NodeBuilder::new("conflict").attr("type", kind).build();
    let code: u16 = if kind == "replaced" { 409 } else { 401 };
    NodeBuilder::new("stream:error").attr("code", code).children([conflict]).build()
}
