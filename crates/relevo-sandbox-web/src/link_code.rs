//! Pairing with a code of eight characters that the device shows and the user enters into the phone.
//!
//! Both sides encrypt an ephemeral key with the code. With the agreed keys the device sends the phone its identity,
//! and both derive the secret that a QR code would have contained.

use std::sync::Arc;

use relevo_linked_device::client::wacore::crypto::hkdf_sha256_into;
use relevo_linked_device::client::wacore::libsignal::crypto::aes_256_gcm_decrypt;
use relevo_linked_device::client::wacore::libsignal::protocol::{KeyPair, PublicKey};
use relevo_linked_device::client::wacore::pair_code::PairCodeUtils;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::is_phone_number;
use crate::pairing::{self, CodeRequest, Error};
use crate::phone::{self, Phone};
use crate::phone_events::PhoneEvent;
use crate::registry::ConnectionId;
use crate::server_state::ServerState;
use crate::stanza::{attr, bytes_node, child_bytes, error_iq, jid_attr, result_iq};

/// Labels of the key derivations. Source: the client's `wacore::pair_code`.
const BUNDLE_KEY_INFO: &[u8] = b"link_code_pairing_key_bundle_encryption_key";
const ADV_SECRET_INFO: &[u8] = b"adv_secret";

/// An entered code, until the device answers.
pub struct EnteredCode {
    reference: Vec<u8>,
    own_key_pair: KeyPair,
    companion_key: PublicKey,
}

/// Answers both queries of a device that pairs with a code.
pub fn answer(shared: &Arc<ServerState>, connection: ConnectionId, query: &Node) -> Option<Node> {
    let Some(request) = query.get_optional_child("link_code_companion_reg") else {
        return Some(error_iq(query, 400, "bad-request"));
    };
    let Some(number) =
        jid_attr(request, "jid").map(|jid| jid.user.to_string()).filter(|user| is_phone_number(user))
    else {
        return Some(error_iq(query, 400, "bad-request"));
    };
    match attr(request, "stage").as_ref() {
        "companion_hello" => Some(companion_hello(shared, connection, &number, query, request)),
        "companion_finish" => {
            shared.registry().reply(connection, result_iq(query, []));
            if let Err(error) = companion_finish(shared, connection, &number, request) {
                tracing::info!(%error, "pairing by code failed; device not linked");
            }
            None
        }
        _ => Some(error_iq(query, 400, "bad-request")),
    }
}

fn companion_hello(
    shared: &Arc<ServerState>,
    connection: ConnectionId,
    number: &str,
    query: &Node,
    registration: &Node,
) -> Node {
    let Some(wrapped) = child_bytes(registration, "link_code_pairing_wrapped_companion_ephemeral_pub") else {
        return error_iq(query, 400, "bad-request");
    };
    let reference = shared.random.value::<[u8; 16]>().to_vec();
    let request = CodeRequest { connection, reference: reference.clone(), wrapped: wrapped.to_vec() };
    let account = shared.account(number);
    let phone = {
        let mut registry = shared.registry();
        registry.code_requests.insert(number.into(), request);
        Arc::clone(&registry.directory.account(account).phone)
    };
    phone.event_log.write(PhoneEvent::PairingCodeRequested);
    let answer = NodeBuilder::new("link_code_companion_reg")
        .attr("stage", "companion_hello")
        .children([bytes_node("link_code_pairing_ref", reference)]);
    result_iq(query, [answer.build()])
}

fn companion_finish(
    shared: &Arc<ServerState>,
    connection: ConnectionId,
    number: &str,
    registration: &Node,
) -> Result<(), Error> {
    let missing = || Error::Crypto("the device's answer is incomplete".into());
    let wrapped = child_bytes(registration, "link_code_pairing_wrapped_key_bundle").ok_or_else(missing)?;
    let reference = child_bytes(registration, "link_code_pairing_ref").ok_or_else(missing)?;
    let phone = {
        let registry = shared.registry();
        let account = registry.directory.find(number).ok_or(Error::CodeNotRequested)?;
        Arc::clone(&registry.directory.account(account).phone)
    };
    let entered = phone.state().entered_code.take().filter(|entered| entered.reference == reference);
    let (identity, secret) = phone.decrypt_key_bundle(&entered.ok_or(Error::CodeNotRequested)?, wrapped)?;
    pairing::approve_device(shared, &phone, connection, &identity, &secret)?;
    Ok(())
}

impl Phone {
    /// Enters the code that a device shows for this number. The device then completes the pairing by itself; with a
    /// wrong code it cannot, and no device is linked.
    ///
    /// The key derivation takes more than a tenth of a second and runs on a blocking thread.
    ///
    /// # Errors
    /// No device has requested a code, or it has disconnected.
    pub async fn enter_pairing_code(self: &Arc<Self>, code: &str) -> phone::Result<()> {
        let shared = self.server()?;
        let request = shared
            .registry()
            .code_requests
            .get(self.phone_number())
            .cloned()
            .ok_or(Error::CodeNotRequested)?;
        let code: String =
            code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_uppercase();
        let wrapped = request.wrapped.clone();
        let ours = KeyPair::generate(&mut shared.random.generator());
        let own_key: [u8; 32] = public_key_bytes(&ours.public_key)?;
        let derived = tokio::task::spawn_blocking(move || {
            let theirs = PairCodeUtils::decrypt_primary_ephemeral_pub(&wrapped, &code);
            theirs.map(|theirs| (theirs, PairCodeUtils::encrypt_ephemeral_pub(&own_key, &code)))
        });
        let (theirs, wrapped) = match derived.await {
            Ok(Ok(derived)) => derived,
            Ok(Err(error)) => return Err(Error::Crypto(error.to_string()).into()),
            Err(error) => return Err(Error::Crypto(error.to_string()).into()),
        };
        let theirs = PublicKey::from_djb_public_key_bytes(&theirs)
            .map_err(|error| Error::Crypto(error.to_string()))?;
        self.state().entered_code = Some(EnteredCode {
            reference: request.reference.clone(),
            own_key_pair: ours,
            companion_key: theirs,
        });
        let hello = NodeBuilder::new("link_code_companion_reg").attr("stage", "primary_hello").children([
            bytes_node("link_code_pairing_wrapped_primary_ephemeral_pub", wrapped),
            bytes_node("primary_identity_pub", public_key_bytes(&self.key().public_key)?),
            bytes_node("link_code_pairing_ref", request.reference),
        ]);
        let mut registry = shared.registry();
        let seconds = shared.seconds();
        let notification = registry.notification("link_code_companion_reg", seconds, hello.build());
        registry.reply(request.connection, (*notification).clone());
        Ok(())
    }

    /// The device's identity, and the secret that is now shared with the device.
    fn decrypt_key_bundle(
        &self,
        entered: &EnteredCode,
        wrapped: &[u8],
    ) -> Result<([u8; 32], [u8; 32]), Error> {
        let failed = |what: &str| Error::Crypto(format!("the device's key bundle {what}"));
        let (salt, rest) = wrapped.split_first_chunk::<32>().ok_or_else(|| failed("is too short"))?;
        let (nonce, sealed) = rest.split_first_chunk::<12>().ok_or_else(|| failed("is too short"))?;
        let agreed = entered.own_key_pair.private_key.calculate_agreement(&entered.companion_key);
        let agreed = agreed.map_err(|_| failed("has an impossible key"))?;
        let mut key = [0; 32];
        hkdf_sha256_into(&agreed, Some(salt), BUNDLE_KEY_INFO, &mut key)
            .map_err(|_| failed("derives no key"))?;
        let mut bundle = Vec::new();
        aes_256_gcm_decrypt(&key, nonce, b"", sealed, &mut bundle)
            .map_err(|_| failed("cannot be decrypted: the code was wrong"))?;
        let (identity, rest) = bundle.split_first_chunk::<32>().ok_or_else(|| failed("is too short"))?;
        let (own_identity, random) = rest.split_first_chunk::<32>().ok_or_else(|| failed("is too short"))?;
        if *own_identity != public_key_bytes(&self.key().public_key)? {
            return Err(failed("is for another phone"));
        }
        let theirs =
            PublicKey::from_djb_public_key_bytes(identity).map_err(|_| failed("has an impossible key"))?;
        let known = self.key().private_key.calculate_agreement(&theirs);
        let known = known.map_err(|_| failed("has an impossible key"))?;
        let mut secret = [0; 32];
        hkdf_sha256_into(&[&agreed[..], &known, random].concat(), None, ADV_SECRET_INFO, &mut secret)
            .map_err(|_| failed("derives no secret"))?;
        Ok((*identity, secret))
    }
}

fn public_key_bytes(key: &PublicKey) -> Result<[u8; 32], Error> {
    key.public_key_bytes().try_into().map_err(|_| Error::Crypto("a key does not have 32 bytes".into()))
}
