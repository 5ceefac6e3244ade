//! What a phone signs: its devices, the list of those that count, and the keys that a new one is given.

use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::buffa::{Message as _, MessageField};
use relevo_linked_device::client::waproto::whatsapp::message::protocol_message::Type;
use relevo_linked_device::client::waproto::whatsapp::message::{
    AppStateSyncKey, AppStateSyncKeyData, AppStateSyncKeyFingerprint, AppStateSyncKeyId,
    AppStateSyncKeyShare, ProtocolMessage,
};
use relevo_linked_device::client::waproto::whatsapp::{
    ADVDeviceIdentity, ADVKeyIndexList, ADVSignedDeviceIdentity, ADVSignedDeviceIdentityHMAC,
    ADVSignedKeyIndexList, Message,
};
use sha2::Sha256;

use crate::accounts::{DeviceId, Naming};
use crate::hub::Mail;
use crate::pairing;
use crate::phone::{self, Phone};
use crate::routing;
use crate::shared::Shared;

/// What stands before details of a device when the phone signs them. Source: whatsmeow, `pair.go`.
const ACCOUNT_SIGNATURE: [u8; 2] = [6, 0];

/// What stands before a list of key indexes. Source: WhatsApp Web, `validateADVKeyIndexList`.
const KEY_INDEX_SIGNATURE: [u8; 2] = [6, 2];

/// All lists and identities of an account belong to one series; a phone here never begins a new one.
const SERIES: u32 = 1;

impl Phone {
    /// Vouches for a device: its number and identity, signed, and authenticated under the secret that only the
    /// device and the phone know.
    pub(super) fn vouch(
        &self,
        number: u16,
        identity: &[u8; 32],
        secret: &[u8],
        seconds: u64,
    ) -> Result<Vec<u8>, pairing::Error> {
        let details = ADVDeviceIdentity {
            raw_id: Some(SERIES),
            timestamp: Some(seconds),
            key_index: Some(u32::from(number)),
            ..Default::default()
        };
        let details = details.encode_to_vec();
        let signature = self.sign(&[&ACCOUNT_SIGNATURE, &details, identity])?;
        let signed = ADVSignedDeviceIdentity {
            details: Some(details),
            account_signature_key: Some(self.key().public_key.public_key_bytes().to_vec()),
            account_signature: Some(signature),
            ..Default::default()
        };
        let signed = signed.encode_to_vec();
        let container = ADVSignedDeviceIdentityHMAC {
            hmac: Some(authenticate(secret, &signed)?),
            details: Some(signed),
            ..Default::default()
        };
        Ok(container.encode_to_vec())
    }

    /// The list of key indexes that count; devices with others are to be forgotten.
    pub(super) fn sign_key_indexes(&self, valid: Vec<u32>, last: u32, seconds: u64) -> Vec<u8> {
        let list = ADVKeyIndexList {
            raw_id: Some(SERIES),
            timestamp: Some(seconds),
            current_index: Some(last),
            valid_indexes: valid,
            ..Default::default()
        };
        let list = list.encode_to_vec();
        let signature = self.sign(&[&KEY_INDEX_SIGNATURE, &list]).ok();
        ADVSignedKeyIndexList { details: Some(list), account_signature: signature, ..Default::default() }
            .encode_to_vec()
    }

    /// What a phone sends to a device that it has just linked: the key under which settings are synchronised.
    pub(super) fn welcome(&self, shared: &Arc<Shared>, device: DeviceId) -> Vec<Mail> {
        match self.peer_message(shared, device, &self.settings_key_share(shared)) {
            Ok(stanza) => routing::accept(shared, self.device(), stanza),
            Err(error) => {
                tracing::warn!(%error, "a virtual phone cannot welcome its device");
                Vec::new()
            }
        }
    }

    /// The message with which a phone hands out the key under which settings are synchronised.
    pub(super) fn settings_key_share(&self, shared: &Shared) -> Message {
        let share = AppStateSyncKeyShare { keys: vec![self.settings_key(shared)] };
        let protocol = ProtocolMessage {
            r#type: Some(Type::APP_STATE_SYNC_KEY_SHARE),
            app_state_sync_key_share: MessageField::some(share),
            ..Default::default()
        };
        Message { protocol_message: MessageField::some(protocol), ..Default::default() }
    }

    /// One key for the account's whole life. It is as good as secret: it is derived from the phone's own.
    fn settings_key(&self, shared: &Shared) -> AppStateSyncKey {
        let key = authenticate(self.key().private_key.serialize(), b"settings");
        let fingerprint = AppStateSyncKeyFingerprint {
            raw_id: Some(SERIES),
            current_index: Some(0),
            device_indexes: vec![0],
        };
        let data = AppStateSyncKeyData {
            key_data: key.ok(),
            fingerprint: MessageField::some(fingerprint),
            timestamp: i64::try_from(shared.seconds()).ok(),
        };
        AppStateSyncKey {
            key_id: MessageField::some(AppStateSyncKeyId { key_id: Some(vec![0, 0, 0, 0, 0, 1]) }),
            key_data: MessageField::some(data),
        }
    }

    /// A stanza for one of the phone's own devices that its user does not see.
    pub(super) fn peer_message(
        &self,
        shared: &Shared,
        device: DeviceId,
        message: &Message,
    ) -> phone::Result<Node> {
        let sealed = self.seal_for(shared, device, message)?;
        let jid = shared.hub().directory.jid(device, Naming::PhoneNumber);
        Ok(NodeBuilder::new("message")
            .attr("to", jid)
            .attr("id", shared.hub().next_id())
            .attr("type", "text")
            .attr("category", "peer")
            .attr("push_priority", "high")
            .children([sealed])
            .build())
    }
}

/// HMAC-SHA256, which takes keys of any length.
fn authenticate(key: &[u8], message: &[u8]) -> Result<Vec<u8>, pairing::Error> {
    let mac =
        Hmac::<Sha256>::new_from_slice(key).map_err(|error| pairing::Error::Crypto(error.to_string()))?;
    Ok(mac.chain_update(message).finalize().into_bytes().to_vec())
}
