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

use crate::accounts::{AccountId, Device, DeviceId, Naming};
use crate::hub::{Hub, LinkId, Peer};
use crate::keys::Keys;
use crate::login::{conflict, stream_error};
use crate::phone::Phone;
use crate::queue::Queue;
use crate::shared::Shared;
use crate::stanza::{child_bytes, leaf};
use crate::topology;

/// Codes that a device is given to show, one after the other. Source: WhatsApp sends six.
const REFS: usize = 6;

/// Devices that one account may have linked. Source: WhatsApp allows four; tests want more.
const DEVICES: usize = 64;

/// Why a device was not linked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("this is no QR code of a device that wants to be linked")]
    NoCode,
    #[error("the code is not, or no longer, shown by any device")]
    Expired,
    #[error("the account has as many devices as it can")]
    TooMany,
    #[error("the key in the code is not the one with which the device registered")]
    OtherKey,
    #[error("no device asked to be linked to this number by a code")]
    NotAsked,
    #[error("the phone's keys failed: {0}")]
    Crypto(String),
}

/// A device that wants to be linked.
#[derive(Debug)]
pub struct Newcomer {
    keys: Keys,
    refs: Vec<String>,
    /// The number under which it is being linked, once a phone vouched for it.
    becomes: Option<DeviceId>,
}

impl Newcomer {
    /// `None` when its keys are incomplete.
    pub fn new(data: &DevicePairingRegistrationData) -> Option<Self> {
        Some(Self { keys: Keys::registered(data)?, refs: Vec::new(), becomes: None })
    }
}

/// A device that waits for its code to be typed into the phone of this number. The last that asked counts.
#[derive(Debug, Clone)]
pub struct CodeRequest {
    pub link: LinkId,
    pub reference: Vec<u8>,
    /// The device's ephemeral key, wrapped with the code.
    pub wrapped: Vec<u8>,
}

/// Those who wait for a code, by phone number; and the phones that have typed one.
pub type Codes = HashMap<Box<str>, CodeRequest>;

/// Gives a newcomer the codes to show.
pub fn offer(hub: &mut Hub, link: LinkId) {
    let refs: Vec<String> =
        (0..REFS).map(|_| format!("2@{}", BASE64_STANDARD.encode(rand::random::<[u8; 24]>()))).collect();
    let shown = refs.iter().map(|reference| leaf("ref", reference.as_bytes())).collect::<Vec<_>>();
    if let Some(Peer::Newcomer(newcomer)) = hub.link_mut(link).map(|link| &mut link.peer) {
        newcomer.refs = refs;
    }
    let offer = NodeBuilder::new("pair-device").children(shown).build();
    let query = server_query(hub, offer);
    hub.reply(link, query);
}

fn server_query(hub: &mut Hub, child: Node) -> Node {
    NodeBuilder::new("iq")
        .attr("from", SERVER_JID)
        .attr("type", "set")
        .attr("id", hub.next_id())
        .attr("xmlns", "md")
        .children([child])
        .build()
}

/// What a QR code says.
struct Scanned<'a> {
    reference: &'a str,
    identity: [u8; 32],
    /// The secret under which the phone's answer is authenticated; the server never sees it.
    secret: Vec<u8>,
}

impl<'a> Scanned<'a> {
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
pub fn scan(shared: &Shared, phone: &Phone, code: &str) -> Result<DeviceId, Error> {
    let scanned = Scanned::parse(code).ok_or(Error::NoCode)?;
    let link = {
        let hub = shared.hub();
        let shows = |peer: &Peer| match peer {
            Peer::Newcomer(newcomer) => newcomer.refs.iter().any(|reference| reference == scanned.reference),
            Peer::Device(_) | Peer::Refused => false,
        };
        let found = hub.links().find(|(_, link)| shows(&link.peer)).map(|(id, _)| id);
        found.ok_or(Error::Expired)?
    };
    vouch(shared, phone, link, &scanned.identity, &scanned.secret)
}

/// The phone vouches for a device, which thereby gets its number and is told so.
pub fn vouch(
    shared: &Shared,
    phone: &Phone,
    link: LinkId,
    identity: &[u8; 32],
    secret: &[u8],
) -> Result<DeviceId, Error> {
    let mut hub = shared.hub();
    let account = hub.directory.account_mut(phone.account());
    if account.devices.len() >= DEVICES {
        return Err(Error::TooMany);
    }
    let number = account.take_number().ok_or(Error::TooMany)?;
    let device = DeviceId { account: phone.account(), number };
    match hub.link_mut(link).map(|link| &mut link.peer) {
        Some(Peer::Newcomer(newcomer)) if newcomer.keys.identity != *identity => return Err(Error::OtherKey),
        Some(Peer::Newcomer(newcomer)) => newcomer.becomes = Some(device),
        _ => return Err(Error::Expired),
    }
    drop(hub);
    let vouched = phone.vouch(number, identity, secret, shared.seconds())?;
    let mut hub = shared.hub();
    let success = NodeBuilder::new("pair-success").children([
        leaf("device-identity", vouched),
        NodeBuilder::new("device")
            .attr("jid", hub.directory.jid(device, Naming::PhoneNumber))
            .attr("lid", hub.directory.jid(device, Naming::Lid))
            .build(),
        NodeBuilder::new("platform").attr("name", "android").build(),
        // As all accounts since 2025: chats are kept under LIDs.
        leaf(
            "client-props",
            ClientPairingProps { is_chat_db_lid_migrated: Some(true), ..Default::default() }.encode_to_vec(),
        ),
    ]);
    let query = server_query(&mut hub, success.build());
    hub.reply(link, query);
    Ok(device)
}

/// The device countersigned: it is linked, must come again, and everybody concerned hears of it.
pub fn confirm(shared: &Arc<Shared>, link: LinkId, answer: &Node) {
    let signed = answer.get_optional_child("pair-device-sign");
    let Some(identity) = signed.and_then(|signed| child_bytes(signed, "device-identity")) else {
        tracing::info!("a device did not take its link: its answer is no countersignature");
        return;
    };
    let mut hub = shared.hub();
    let Some(entry) = hub.link_mut(link) else { return };
    let Peer::Newcomer(newcomer) = std::mem::replace(&mut entry.peer, Peer::Refused) else { return };
    let Newcomer { keys, becomes: Some(device), .. } = *newcomer else { return };
    let linked = Device { keys, identity: identity.to_vec(), queue: Queue::default(), link: None };
    hub.directory.account_mut(device.account).devices.insert(device.number, linked);
    hub.codes.retain(|_, request| request.link != link);
    hub.close(link, Some(stream_error(515)));
    drop(hub);
    let mut mail = topology::announce(shared, device, topology::Change::Added);
    mail.extend(shared.phone(device.account).welcome(shared, device));
    shared.hand_out(mail);
}

/// Takes a device from an account; its connection, where it has one, is told and closed. False when there is no
/// such device.
pub fn unlink(shared: &Arc<Shared>, account: AccountId, number: u16) -> bool {
    let device = DeviceId { account, number };
    let mut hub = shared.hub();
    let Some(removed) = hub.directory.account_mut(account).devices.remove(&number) else { return false };
    if let Some(link) = removed.link {
        hub.close(link, Some(conflict("device_removed")));
    }
    drop(hub);
    let mail = topology::announce(shared, device, topology::Change::Removed);
    shared.hand_out(mail);
    true
}
