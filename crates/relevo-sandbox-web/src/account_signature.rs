//! Signatures of a phone: device identities, the list of valid devices, and the keys for new devices.

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

use crate::accounts::{AddressingMode, DeviceId};
use crate::pairing;
use crate::phone::{self, Phone};
use crate::registry::PhoneStanza;
use crate::router;
use crate::server_state::ServerState;

/// Prefix of a signed device identity. Source: whatsmeow, `pair.go`.
const ACCOUNT_SIGNATURE_PREFIX: [u8; 2] = [6, 0];

/// Prefix of a signed list of key indexes. Source: WhatsApp Web, `validateADVKeyIndexList`.
const KEY_INDEX_SIGNATURE_PREFIX: [u8; 2] = [6, 2];

/// Id of the series of an account's lists and identities. A phone here never starts a new series.
const ACCOUNT_RAW_ID: u32 = 1;

impl Phone {
    /// Signs a device's number and identity, and authenticates them with the secret that only the device and the phone
    /// have.
    pub(super) fn sign_device_identity(
        &self,
        number: u16,
        identity: &[u8; 32],
        secret: &[u8],
        seconds: u64,
    ) -> Result<Vec<u8>, pairing::Error> {
        let details = ADVDeviceIdentity {
            raw_id: Some(ACCOUNT_RAW_ID),
            timestamp: Some(seconds),
            key_index: Some(u32::from(number)),
            ..Default::default()
        };
        let details = details.encode_to_vec();
        let signature = self.sign(&[&ACCOUNT_SIGNATURE_PREFIX, &details, identity])?;
        let signed = ADVSignedDeviceIdentity {
            details: Some(details),
            account_signature_key: Some(self.key().public_key.public_key_bytes().to_vec()),
            account_signature: Some(signature),
            ..Default::default()
        };
        let signed = signed.encode_to_vec();
        let container = ADVSignedDeviceIdentityHMAC {
            hmac: Some(hmac_sha256(secret, &signed)?),
            details: Some(signed),
            ..Default::default()
        };
        Ok(container.encode_to_vec())
    }

    /// The signed list of valid key indexes. Clients delete devices with other indexes.
    pub(super) fn sign_key_index_list(&self, valid: Vec<u32>, last: u32, seconds: u64) -> Vec<u8> {
        let list = ADVKeyIndexList {
            raw_id: Some(ACCOUNT_RAW_ID),
            timestamp: Some(seconds),
            current_index: Some(last),
            valid_indexes: valid,
            ..Default::default()
        };
        let list = list.encode_to_vec();
        let signature = self.sign(&[&KEY_INDEX_SIGNATURE_PREFIX, &list]).ok();
        ADVSignedKeyIndexList { details: Some(list), account_signature: signature, ..Default::default() }
            .encode_to_vec()
    }

    /// Sends a newly linked device the key of the synchronised settings.
    pub(super) fn send_app_state_key(&self, shared: &Arc<ServerState>, device: DeviceId) -> Vec<PhoneStanza> {
        match self.peer_message(shared, device, &self.app_state_key_share(shared)) {
            Ok(stanza) => router::route_stanza(shared, self.device(), stanza),
            Err(error) => {
                tracing::warn!(%error, "app state key not sent to linked device");
                Vec::new()
            }
        }
    }

    /// The message with the key of the synchronised settings.
    pub(super) fn app_state_key_share(&self, shared: &ServerState) -> Message {
        let share = AppStateSyncKeyShare { keys: vec![self.app_state_key(shared)] };
        let protocol = ProtocolMessage {
            r#type: Some(Type::APP_STATE_SYNC_KEY_SHARE),
            app_state_sync_key_share: MessageField::some(share),
            ..Default::default()
        };
        Message { protocol_message: MessageField::some(protocol), ..Default::default() }
    }

    /// The key of an account, which never changes. It is derived from the phone's private key.
    fn app_state_key(&self, shared: &ServerState) -> AppStateSyncKey {
        let key = hmac_sha256(self.key().private_key.serialize(), b"settings");
        let fingerprint = AppStateSyncKeyFingerprint {
            raw_id: Some(ACCOUNT_RAW_ID),
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

    /// A stanza for one of the phone's own devices that is not shown to the user.
    pub(super) fn peer_message(
        &self,
        shared: &ServerState,
        device: DeviceId,
        message: &Message,
    ) -> phone::Result<Node> {
        let sealed = self.encrypt_for_device(shared, device, message)?;
        let jid = shared.registry().directory.device_jid(device, AddressingMode::PhoneNumber);
        Ok(NodeBuilder::new("message")
            .attr("to", jid)
            .attr("id", shared.registry().next_id())
            .attr("type", "text")
            .attr("category", "peer")
            .attr("push_priority", "high")
            .children([sealed])
            .build())
    }
}

/// HMAC-SHA256, which accepts keys of any length.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Result<Vec<u8>, pairing::Error> {
    let mac =
        Hmac::<Sha256>::new_from_slice(key).map_err(|error| pairing::Error::Crypto(error.to_string()))?;
    Ok(mac.chain_update(message).finalize().into_bytes().to_vec())
}
