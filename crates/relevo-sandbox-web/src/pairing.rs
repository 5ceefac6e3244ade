//! Linking a device: by the code that it shows and the phone scans, or by the code that it shows and its user
//! types into the phone. Either way the phone vouches for the device's identity, and the device countersigns.

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

/// Codes that a device is given to show, one after the other. Source: WhatsApp sends six.
const QR_REF_COUNT: usize = 6;

/// Devices that one account may have linked. Source: WhatsApp allows four; tests want more.
const MAX_LINKED_DEVICES: usize = 64;

/// Why a device was not linked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("this is no QR code of a device that wants to be linked")]
    InvalidQrCode,
    #[error("the code is not, or no longer, shown by any device")]
    Expired,
    #[error("the account has as many devices as it can")]
    TooManyDevices,
    #[error("the key in the code is not the one with which the device registered")]
    KeyMismatch,
    #[error("no device asked to be linked to this number by a code")]
    CodeNotRequested,
    #[error("the phone's keys failed: {0}")]
    Crypto(String),
}

/// A device that wants to be linked.
#[derive(Debug)]
pub struct UnpairedDevice {
    keys: DeviceKeys,
    refs: Vec<String>,
    /// The number under which it is being linked, once a phone vouched for it.
    assigned_device: Option<DeviceId>,
}

impl UnpairedDevice {
    /// `None` when its keys are incomplete.
    pub fn new(data: &DevicePairingRegistrationData) -> Option<Self> {
        Some(Self { keys: DeviceKeys::from_registration(data)?, refs: Vec::new(), assigned_device: None })
    }
}

/// A device that waits for its code to be typed into the phone of this number. The last that asked counts.
#[derive(Debug, Clone)]
pub struct CodeRequest {
    pub connection: ConnectionId,
    pub reference: Vec<u8>,
    /// The device's ephemeral key, wrapped with the code.
    pub wrapped: Vec<u8>,
}

/// Those who wait for a code, by phone number; and the phones that have typed one.
pub type CodeRequests = HashMap<Box<str>, CodeRequest>;

/// Gives a newcomer the codes to show.
pub fn send_qr_refs(hub: &mut Registry, link: ConnectionId) {
    let refs: Vec<String> = (0..QR_REF_COUNT)
        .map(|_| format!("2@{}", BASE64_STANDARD.encode(rand::random::<[u8; 24]>())))
        .collect();
    let shown = refs.iter().map(|reference| bytes_node("ref", reference.as_bytes())).collect::<Vec<_>>();
    if let Some(ConnectionPeer::Unpaired(newcomer)) = hub.connection_mut(link).map(|link| &mut link.peer) {
        newcomer.refs = refs;
    }
    let offer = NodeBuilder::new("pair-device").children(shown).build();
    let query = server_query(hub, offer);
    hub.reply(link, query);
}

fn server_query(hub: &mut Registry, child: Node) -> Node {
    NodeBuilder::new("iq")
        .attr("from", SERVER_JID)
        .attr("type", "set")
        .attr("id", hub.next_id())
        .attr("xmlns", "md")
        .children([child])
        .build()
}

/// What a QR code says.
struct QrCodeContent<'a> {
    reference: &'a str,
    identity: [u8; 32],
    /// The secret under which the phone's answer is authenticated; the server never sees it.
    secret: Vec<u8>,
}

impl<'a> QrCodeContent<'a> {
    fn parse(code: &'a str) -> Option<Self> {
        // Codes for the phone's own camera are a link with the code behind the `#`.
        let mut parts = code.rsplit('#').next()?.split(',');
        let reference = parts.next()?;
        let _noise_key = parts.next()?;
        let identity = BASE64_STANDARD.decode(parts.next()?).ok()?.try_into().ok()?;
        let secret = BASE64_STANDARD.decode(parts.next()?).ok()?;
        Some(Self { reference, identity, secret })
    }
}

/// A phone scans the QR code that a device shows.
pub fn scan_qr_code(shared: &ServerState, phone: &Phone, code: &str) -> Result<DeviceId, Error> {
    let scanned = QrCodeContent::parse(code).ok_or(Error::InvalidQrCode)?;
    let link = {
        let hub = shared.registry();
        let shows = |peer: &ConnectionPeer| match peer {
            ConnectionPeer::Unpaired(newcomer) => {
                newcomer.refs.iter().any(|reference| reference == scanned.reference)
            }
            ConnectionPeer::Device(_) | ConnectionPeer::Refused => false,
        };
        let found = hub.connections().find(|(_, link)| shows(&link.peer)).map(|(id, _)| id);
        found.ok_or(Error::Expired)?
    };
    approve_device(shared, phone, link, &scanned.identity, &scanned.secret)
}

/// The phone vouches for a device, which thereby gets its number and is told so.
pub fn approve_device(
    shared: &ServerState,
    phone: &Phone,
    link: ConnectionId,
    identity: &[u8; 32],
    secret: &[u8],
) -> Result<DeviceId, Error> {
    let mut hub = shared.registry();
    let account = hub.directory.account_mut(phone.account());
    if account.devices.len() >= MAX_LINKED_DEVICES {
        return Err(Error::TooManyDevices);
    }
    let number = account.allocate_device_number().ok_or(Error::TooManyDevices)?;
    let device = DeviceId { account: phone.account(), number };
    match hub.connection_mut(link).map(|link| &mut link.peer) {
        Some(ConnectionPeer::Unpaired(newcomer)) if newcomer.keys.identity != *identity => {
            return Err(Error::KeyMismatch);
        }
        Some(ConnectionPeer::Unpaired(newcomer)) => newcomer.assigned_device = Some(device),
        _ => return Err(Error::Expired),
    }
    drop(hub);
    let vouched = phone.sign_device_identity(number, identity, secret, shared.seconds())?;
    let mut hub = shared.registry();
    let success = NodeBuilder::new("pair-success").children([
        bytes_node("device-identity", vouched),
        NodeBuilder::new("device")
            .attr("jid", hub.directory.device_jid(device, AddressingMode::PhoneNumber))
            .attr("lid", hub.directory.device_jid(device, AddressingMode::Lid))
            .build(),
        NodeBuilder::new("platform").attr("name", "android").build(),
        // As all accounts since 2025: chats are kept under LIDs.
        bytes_node(
            "client-props",
            ClientPairingProps { is_chat_db_lid_migrated: Some(true), ..Default::default() }.encode_to_vec(),
        ),
    ]);
    let query = server_query(&mut hub, success.build());
    hub.reply(link, query);
    Ok(device)
}

/// The device countersigned: it is linked, must come again, and everybody concerned hears of it.
pub fn complete_pairing(shared: &Arc<ServerState>, link: ConnectionId, answer: &Node) {
    let signed = answer.get_optional_child("pair-device-sign");
    let Some(identity) = signed.and_then(|signed| child_bytes(signed, "device-identity")) else {
        tracing::info!("a device did not take its link: its answer is no countersignature");
        return;
    };
    let mut hub = shared.registry();
    let Some(entry) = hub.connection_mut(link) else { return };
    let ConnectionPeer::Unpaired(newcomer) = std::mem::replace(&mut entry.peer, ConnectionPeer::Refused)
    else {
        return;
    };
    let UnpairedDevice { keys, assigned_device: Some(device), .. } = *newcomer else { return };
    let linked = CompanionDevice {
        keys,
        identity: identity.to_vec(),
        queue: DeviceQueue::default(),
        connection: None,
    };
    hub.directory.account_mut(device.account).devices.insert(device.number, linked);
    hub.code_requests.retain(|_, request| request.connection != link);
    hub.close(link, Some(stream_error(515)));
    drop(hub);
    let mut mail = device_list::notify_device_change(shared, device, device_list::DeviceChange::Added);
    mail.extend(shared.phone(device.account).send_app_state_key(shared, device));
    shared.deliver_to_phones(mail);
}

/// Takes a device from an account; its connection, where it has one, is told and closed. False when there is no
/// such device.
pub fn unlink_device(shared: &Arc<ServerState>, account: AccountId, number: u16) -> bool {
    let device = DeviceId { account, number };
    let mut hub = shared.registry();
    let Some(removed) = hub.directory.account_mut(account).devices.remove(&number) else { return false };
    if let Some(link) = removed.connection {
        hub.close(link, Some(conflict_error("device_removed")));
    }
    drop(hub);
    let mail = device_list::notify_device_change(shared, device, device_list::DeviceChange::Removed);
    shared.deliver_to_phones(mail);
    true
}
