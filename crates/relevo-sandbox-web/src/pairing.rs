//! Pairing of a device: the phone scans a QR code of the device, or the user enters a code of the device into the
//! phone. In both cases the phone signs the device's identity, and the device countersigns it.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use relevo_linked_device::client::wacore_binary::SERVER_JID;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::buffa::Message as _;
use relevo_linked_device::client::waproto::whatsapp::ClientPairingProps;
use relevo_linked_device::client::waproto::whatsapp::client_payload::DevicePairingRegistrationData;

use crate::accounts::{AccountId, AddressingMode, CompanionDevice, DeviceId};
use crate::device_list;
use crate::keys::DeviceKeys;
use crate::login::{conflict_error, stream_error};
use crate::phone::Phone;
use crate::queue::DeviceQueue;
use crate::registry::{ConnectionId, ConnectionPeer, Registry};
use crate::server_state::ServerState;
use crate::stanza::{bytes_node, child_bytes};
use relevo_clock::Random;

/// Number of codes that a device receives, to show one after the other. Source: WhatsApp sends six.
const QR_REF_COUNT: usize = 6;

/// Maximum number of linked devices of an account. WhatsApp allows four; tests need more.
const MAX_LINKED_DEVICES: usize = 64;

/// Reason why a device was not linked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not a QR code of WhatsApp Web.
    #[error("the text is not a QR code of a device that can be linked")]
    InvalidQrCode,
    /// No connected device has this code.
    #[error("no connected device shows this code, or it has expired")]
    Expired,
    /// The account has the maximum number of devices.
    #[error("the account has the maximum number of devices")]
    TooManyDevices,
    /// The code contains another key than the device's registration.
    #[error("the key in the code differs from the key that the device registered")]
    KeyMismatch,
    /// No device waits for a code of this number.
    #[error("no device has requested a pairing code for this number")]
    CodeNotRequested,
    /// A cryptographic operation failed.
    #[error("the key exchange failed: {0}")]
    Crypto(String),
}

/// A device that is not linked yet.
#[derive(Debug)]
pub struct UnpairedDevice {
    keys: DeviceKeys,
    refs: Vec<String>,
    /// The device id, after a phone has signed its identity.
    assigned_device: Option<DeviceId>,
}

impl UnpairedDevice {
    /// A device with these keys; `None` when they are incomplete.
    pub fn new(data: &DevicePairingRegistrationData) -> Option<Self> {
        Some(Self { keys: DeviceKeys::from_registration(data)?, refs: Vec::new(), assigned_device: None })
    }
}

/// A device that waits for its code to be entered into the phone of this number. The last request counts.
#[derive(Debug, Clone)]
pub struct CodeRequest {
    pub connection: ConnectionId,
    pub reference: Vec<u8>,
    /// The device's ephemeral key, encrypted with the code.
    pub wrapped: Vec<u8>,
}

/// The code requests by phone number.
pub type CodeRequests = HashMap<Box<str>, CodeRequest>;

/// Sends an unpaired device the codes to show.
pub fn send_qr_refs(registry: &mut Registry, random: &Random, connection: ConnectionId) {
    let refs: Vec<String> = (0..QR_REF_COUNT)
        .map(|_| format!("2@{}", BASE64_STANDARD.encode(random.value::<[u8; 24]>())))
        .collect();
    let shown = refs.iter().map(|reference| bytes_node("ref", reference.as_bytes())).collect::<Vec<_>>();
    if let Some(ConnectionPeer::Unpaired(unpaired)) =
        registry.connection_mut(connection).map(|connection| &mut connection.peer)
    {
        unpaired.refs = refs;
    }
    let offer = NodeBuilder::new("pair-device").children(shown).build();
    let query = server_query(registry, offer);
    registry.reply(connection, query);
}

fn server_query(registry: &mut Registry, child: Node) -> Node {
    NodeBuilder::new("iq")
        .attr("from", SERVER_JID)
        .attr("type", "set")
        .attr("id", registry.next_id())
        .attr("xmlns", "md")
        .children([child])
        .build()
}

/// The content of a QR code.
struct QrCodeContent<'a> {
    reference: &'a str,
    identity: [u8; 32],
    /// The secret that authenticates the phone's answer. The server does not use it.
    secret: Vec<u8>,
}

impl<'a> QrCodeContent<'a> {
    fn parse(code: &'a str) -> Option<Self> {
        // Codes for the camera app are a URL with the code in its fragment.
        let mut parts = code.rsplit('#').next()?.split(',');
        let reference = parts.next()?;
        let _noise_key = parts.next()?;
        let identity = BASE64_STANDARD.decode(parts.next()?).ok()?.try_into().ok()?;
        let secret = BASE64_STANDARD.decode(parts.next()?).ok()?;
        Some(Self { reference, identity, secret })
    }
}

/// Links the device that shows this QR code.
///
/// # Errors
/// The code is invalid or expired, or the account has the maximum number of devices.
pub fn scan_qr_code(shared: &ServerState, phone: &Phone, code: &str) -> Result<DeviceId, Error> {
    let scanned = QrCodeContent::parse(code).ok_or(Error::InvalidQrCode)?;
    let connection = {
        let registry = shared.registry();
        let shows = |peer: &ConnectionPeer| match peer {
            ConnectionPeer::Unpaired(unpaired) => {
                unpaired.refs.iter().any(|reference| reference == scanned.reference)
            }
            ConnectionPeer::Device(_) | ConnectionPeer::Refused => false,
        };
        let found = registry.connections().find(|(_, connection)| shows(&connection.peer)).map(|(id, _)| id);
        found.ok_or(Error::Expired)?
    };
    approve_device(shared, phone, connection, &scanned.identity, &scanned.secret)
}

/// Signs a device's identity with the phone's key, assigns its number and sends it both.
///
/// # Errors
/// The account has the maximum number of devices, or the device has another key or is disconnected.
pub fn approve_device(
    shared: &ServerState,
    phone: &Phone,
    connection: ConnectionId,
    identity: &[u8; 32],
    secret: &[u8],
) -> Result<DeviceId, Error> {
    let mut registry = shared.registry();
    let account = registry.directory.account_mut(phone.account());
    if account.devices.len() >= MAX_LINKED_DEVICES {
        return Err(Error::TooManyDevices);
    }
    let number = account.allocate_device_number().ok_or(Error::TooManyDevices)?;
    let device = DeviceId { account: phone.account(), number };
    match registry.connection_mut(connection).map(|connection| &mut connection.peer) {
        Some(ConnectionPeer::Unpaired(unpaired)) if unpaired.keys.identity != *identity => {
            return Err(Error::KeyMismatch);
        }
        Some(ConnectionPeer::Unpaired(unpaired)) => unpaired.assigned_device = Some(device),
        _ => return Err(Error::Expired),
    }
    drop(registry);
    let signed_identity = phone.sign_device_identity(number, identity, secret, shared.seconds())?;
    let mut registry = shared.registry();
    let success = NodeBuilder::new("pair-success").children([
        bytes_node("device-identity", signed_identity),
        NodeBuilder::new("device")
            .attr("jid", registry.directory.device_jid(device, AddressingMode::PhoneNumber))
            .attr("lid", registry.directory.device_jid(device, AddressingMode::Lid))
            .build(),
        NodeBuilder::new("platform").attr("name", "android").build(),
        // As for all accounts since 2025: chats are stored under LIDs.
        bytes_node(
            "client-props",
            ClientPairingProps { is_chat_db_lid_migrated: Some(true), ..Default::default() }.encode_to_vec(),
        ),
    ]);
    let query = server_query(&mut registry, success.build());
    registry.reply(connection, query);
    Ok(device)
}

/// Links a device after its countersignature, requests it to reconnect, and notifies other devices.
pub fn complete_pairing(shared: &Arc<ServerState>, connection: ConnectionId, answer: &Node) {
    let signed = answer.get_optional_child("pair-device-sign");
    let Some(identity) = signed.and_then(|signed| child_bytes(signed, "device-identity")) else {
        tracing::info!("countersignature missing; device not linked");
        return;
    };
    let mut registry = shared.registry();
    let Some(entry) = registry.connection_mut(connection) else { return };
    let ConnectionPeer::Unpaired(unpaired) = std::mem::replace(&mut entry.peer, ConnectionPeer::Refused)
    else {
        return;
    };
    let UnpairedDevice { keys, assigned_device: Some(device), .. } = *unpaired else { return };
    let linked = CompanionDevice {
        keys,
        identity: identity.to_vec(),
        queue: DeviceQueue::default(),
        connection: None,
    };
    registry.directory.account_mut(device.account).devices.insert(device.number, linked);
    registry.code_requests.retain(|_, request| request.connection != connection);
    registry.close(connection, Some(stream_error(515)));
    drop(registry);
    let mut phone_stanzas =
        device_list::notify_device_change(shared, device, device_list::DeviceChange::Added);
    phone_stanzas.extend(shared.phone(device.account).send_app_state_key(shared, device));
    shared.deliver_to_phones(phone_stanzas);
}

/// Removes a device from an account, and notifies and closes its connection. Returns false when there is no such
/// device.
pub fn unlink_device(shared: &Arc<ServerState>, account: AccountId, number: u16) -> bool {
    let device = DeviceId { account, number };
    let mut registry = shared.registry();
    let Some(removed) = registry.directory.account_mut(account).devices.remove(&number) else { return false };
    if let Some(connection) = removed.connection {
        registry.close(connection, Some(conflict_error("device_removed")));
    }
    drop(registry);
    let phone_stanzas = device_list::notify_device_change(shared, device, device_list::DeviceChange::Removed);
    shared.deliver_to_phones(phone_stanzas);
    true
}
