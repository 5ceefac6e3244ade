//! Prekeys: those that a device publishes, and the bundles for new sessions.

use std::collections::VecDeque;

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::whatsapp::client_payload::DevicePairingRegistrationData;

use crate::stanza::{bytes_node, child_bytes, children, parse_be_u32};

/// Maximum number of stored one-time keys of a device. Clients publish 812 at once; for many idle devices the server
/// stores fewer and requests more.
pub const MAX_ONE_TIME_PRE_KEYS: usize = 128;

/// With fewer one-time keys than this, the server requests more.
pub const LOW_ONE_TIME_PRE_KEYS: usize = 10;

/// Type of all keys. Source: libsignal, Curve25519.
const CURVE25519_TYPE: u8 = 5;

/// A signed prekey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPreKey {
    pub id: u32,
    pub key: [u8; 32],
    pub signature: Vec<u8>,
}

/// A one-time prekey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneTimePreKey {
    pub id: u32,
    pub key: [u8; 32],
}

/// The published keys of a linked device.
#[derive(Debug)]
pub struct DeviceKeys {
    pub registration: u32,
    pub identity: [u8; 32],
    pub signed: SignedPreKey,
    pub one_time: VecDeque<OneTimePreKey>,
}

/// The keys to start a session with a device.
#[derive(Debug, Clone)]
pub struct DeviceKeyBundle {
    pub registration: u32,
    pub identity: [u8; 32],
    pub signed: SignedPreKey,
    pub one_time: Option<OneTimePreKey>,
}

impl DeviceKeys {
    /// The keys in a device's pairing request. `None` when they are incomplete.
    pub fn from_registration(data: &DevicePairingRegistrationData) -> Option<Self> {
        let signed = SignedPreKey {
            id: parse_be_u32(data.e_skey_id.as_deref()?)?,
            key: data.e_skey_val.as_deref()?.try_into().ok()?,
            signature: data.e_skey_sig.clone()?,
        };
        Some(Self {
            registration: parse_be_u32(data.e_regid.as_deref()?)?,
            identity: data.e_ident.as_deref()?.try_into().ok()?,
            signed,
            one_time: VecDeque::new(),
        })
    }

    /// Stores the keys of `<iq xmlns="encrypt" type="set">`. `None` when they are malformed.
    pub fn publish(&mut self, query: &Node) -> Option<()> {
        if let Some(signed) = query.get_optional_child("skey") {
            self.signed = parse_signed_pre_key(signed)?;
        }
        let list = query.get_optional_child("list").map(children).unwrap_or_default();
        let published = list.iter().map(parse_one_time_pre_key).collect::<Option<Vec<_>>>()?;
        // A key that was published twice is handed out once.
        self.one_time.retain(|kept| published.iter().all(|key| key.id != kept.id));
        self.one_time.extend(published);
        let surplus = self.one_time.len().saturating_sub(MAX_ONE_TIME_PRE_KEYS);
        self.one_time.drain(..surplus);
        Some(())
    }

    /// A bundle with a one-time key, which is consumed.
    pub fn take_bundle(&mut self) -> DeviceKeyBundle {
        DeviceKeyBundle {
            registration: self.registration,
            identity: self.identity,
            signed: self.signed.clone(),
            one_time: self.one_time.pop_front(),
        }
    }
}

impl DeviceKeyBundle {
    /// `<user>` in the answer to a key query. A linked device's bundle includes its signed identity.
    pub fn into_node(self, jid: Jid, device_identity: Option<Vec<u8>>) -> Node {
        let SignedPreKey { id, key, signature } = self.signed;
        let mut parts = vec![
            bytes_node("registration", self.registration.to_be_bytes()),
            bytes_node("type", [CURVE25519_TYPE]),
            bytes_node("identity", self.identity),
            key_node("skey", id, &key, Some(signature)),
        ];
        parts.extend(self.one_time.map(|key| key_node("key", key.id, &key.key, None)));
        parts.extend(device_identity.map(|identity| bytes_node("device-identity", identity)));
        NodeBuilder::new("user").attr("jid", jid).children(parts).build()
    }
}

fn key_node(tag: &'static str, id: u32, key: &[u8; 32], signature: Option<Vec<u8>>) -> Node {
    // Ids have three bytes in stanzas.
    let mut parts = vec![
        bytes_node("id", id.to_be_bytes().into_iter().skip(1).collect::<Vec<_>>()),
        bytes_node("value", *key),
    ];
    parts.extend(signature.map(|signature| bytes_node("signature", signature)));
    NodeBuilder::new(tag).children(parts).build()
}

/// Parses `<skey>`.
pub fn parse_signed_pre_key(node: &Node) -> Option<SignedPreKey> {
    Some(SignedPreKey {
        id: parse_be_u32(child_bytes(node, "id")?)?,
        key: child_bytes(node, "value")?.try_into().ok()?,
        signature: child_bytes(node, "signature")?.to_vec(),
    })
}

/// Parses `<key>`.
pub fn parse_one_time_pre_key(node: &Node) -> Option<OneTimePreKey> {
    Some(OneTimePreKey {
        id: parse_be_u32(child_bytes(node, "id")?)?,
        key: child_bytes(node, "value")?.try_into().ok()?,
    })
}
