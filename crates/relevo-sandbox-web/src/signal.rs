//! The Signal state of a virtual phone, in memory. Its stores complete immediately, so no operation awaits, and a
//! phone can use the state under a synchronous lock.

use std::collections::HashMap;

use futures_util::FutureExt as _;
use relevo_linked_device::client::async_trait;
use relevo_linked_device::client::wacore::libsignal::protocol::error::Result as SignalResult;
use relevo_linked_device::client::wacore::libsignal::protocol::{
    CiphertextMessage, Direction, GenericSignedPreKey as _, IdentityChange, IdentityKey, IdentityKeyPair,
    IdentityKeyStore, KeyPair, PreKeyBundle, PreKeyId, PreKeyRecord, PreKeySignalMessage, PreKeyStore,
    ProtocolAddress, PublicKey, SenderKeyDistributionMessage, SenderKeyName, SenderKeyRecord, SenderKeyStore,
    SessionRecord, SessionStore, SignalMessage, SignalProtocolError, SignedPreKeyId, SignedPreKeyRecord,
    SignedPreKeyStore, Timestamp, UsePQRatchet, create_sender_key_distribution_message, group_decrypt,
    group_encrypt, message_decrypt, message_encrypt, process_prekey_bundle,
    process_sender_key_distribution_message,
};

use crate::accounts::DeviceId;
use crate::keys::{DeviceKeyBundle, SignedPreKey};
use relevo_clock::Random;

/// Id of a phone's signed prekey, which does not rotate.
const SIGNED_PRE_KEY_ID: u32 = 1;

/// Reason why a message could not be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Signal(#[from] SignalProtocolError),
    #[error("the key is not a curve point: {0}")]
    InvalidKey(#[from] relevo_linked_device::client::wacore::libsignal::protocol::CurveError),
    #[error("unknown encryption type {0:?}")]
    UnknownKind(String),
    #[error("an in-memory store did not complete immediately")]
    StorePending,
}

impl Error {
    /// Whether this ciphertext was decrypted before.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Signal(SignalProtocolError::DuplicatedMessage(..)))
    }
}

/// Result of the functions of [`SignalState`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A ciphertext with its type in stanzas: `msg`, `pkmsg` or `skmsg`.
#[derive(Debug, Clone)]
pub struct Ciphertext {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
}

/// Identity, sessions and sender keys of one phone.
pub struct SignalState {
    random: Random,
    identities: Identities,
    sessions: Sessions,
    signed: SignedPreKeys,
    one_time: EmptyPreKeyStore,
    sender_keys: SenderKeys,
}

impl SignalState {
    /// New keys, and the bundle of the public ones.
    ///
    /// # Errors
    /// The signature fails, which does not happen with new keys.
    pub fn generate(random: Random) -> Result<(Self, KeyPair, DeviceKeyBundle)> {
        let mut generator = random.generator();
        let own = KeyPair::generate(&mut generator);
        let signed = KeyPair::generate(&mut generator);
        let signature =
            own.private_key.calculate_signature(&signed.public_key.serialize(), &mut generator)?;
        let registration = random.value::<u32>() & 0x3fff;
        let identity = IdentityKey::new(own.public_key);
        let bundle = DeviceKeyBundle {
            registration,
            identity: public_key_bytes(&own.public_key)?,
            signed: SignedPreKey {
                id: SIGNED_PRE_KEY_ID,
                key: public_key_bytes(&signed.public_key)?,
                signature: signature.to_vec(),
            },
            one_time: None,
        };
        let record = SignedPreKeyRecord::new(
            SignedPreKeyId::from(SIGNED_PRE_KEY_ID),
            Timestamp::from_epoch_millis(0),
            &signed,
            &signature,
        );
        let signal_state = Self {
            random,
            identities: Identities {
                own: IdentityKeyPair::new(identity, own.private_key.clone()),
                registration,
                known: HashMap::new(),
            },
            sessions: Sessions::default(),
            signed: SignedPreKeys(record),
            one_time: EmptyPreKeyStore,
            sender_keys: SenderKeys::default(),
        };
        Ok((signal_state, own, bundle))
    }

    /// Whether there is a session with a device.
    pub fn has_session(&self, device: DeviceId) -> bool {
        self.sessions.0.contains_key(&protocol_address(device))
    }

    /// Starts a session with the published keys of a device. An existing session is archived.
    ///
    /// # Errors
    /// The keys or their signature are invalid.
    pub fn start_session(&mut self, device: DeviceId, bundle: &DeviceKeyBundle) -> Result<()> {
        let one_time = match &bundle.one_time {
            Some(key) => Some((PreKeyId::from(key.id), PublicKey::from_djb_public_key_bytes(&key.key)?)),
            None => None,
        };
        let address = protocol_address(device);
        let bundle = PreKeyBundle::new(
            bundle.registration,
            address.device_id(),
            one_time,
            SignedPreKeyId::from(bundle.signed.id),
            PublicKey::from_djb_public_key_bytes(&bundle.signed.key)?,
            bundle.signed.signature.clone(),
            IdentityKey::new(PublicKey::from_djb_public_key_bytes(&bundle.identity)?),
        )?;
        let mut generator = self.random.generator();
        resolve_now(process_prekey_bundle(
            &address,
            &mut self.sessions,
            &mut self.identities,
            &bundle,
            &mut generator,
            UsePQRatchet::No,
        ))?;
        Ok(())
    }

    /// Encrypts for a device.
    ///
    /// # Errors
    /// There is no session with the device.
    pub fn encrypt(&mut self, device: DeviceId, plaintext: &[u8]) -> Result<Ciphertext> {
        let address = protocol_address(device);
        let sealed =
            resolve_now(message_encrypt(plaintext, &address, &mut self.sessions, &mut self.identities))?;
        let kind = match &sealed {
            CiphertextMessage::PreKeySignalMessage(_) => "pkmsg",
            _ => "msg",
        };
        Ok(Ciphertext { kind, bytes: sealed.serialize().to_vec() })
    }

    /// Decrypts a `msg` or `pkmsg` of a device.
    ///
    /// # Errors
    /// The type is unknown, or the ciphertext is invalid or was decrypted before.
    pub fn decrypt(&mut self, device: DeviceId, kind: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        let sealed = match kind {
            "msg" => CiphertextMessage::SignalMessage(SignalMessage::try_from(bytes)?),
            "pkmsg" => CiphertextMessage::PreKeySignalMessage(PreKeySignalMessage::try_from(bytes)?),
            other => return Err(Error::UnknownKind(other.to_owned())),
        };
        let mut generator = self.random.generator();
        let opened = resolve_now(message_decrypt(
            &sealed,
            &protocol_address(device),
            &mut self.sessions,
            &mut self.identities,
            &mut self.one_time,
            &self.signed,
            &mut generator,
            UsePQRatchet::No,
        ))?;
        Ok(opened.plaintext)
    }

    /// The phone's sender key of a group, which every device of the group must receive.
    ///
    /// # Errors
    /// The key cannot be created.
    pub fn own_sender_key(&mut self, group: &str, own: DeviceId) -> Result<Vec<u8>> {
        let mut generator = self.random.generator();
        let name = sender_key_name(group, own);
        let key = resolve_now(create_sender_key_distribution_message(
            &name,
            &mut self.sender_keys,
            &mut generator,
        ))?;
        Ok(key.serialized().to_vec())
    }

    /// Stores the sender key of a device in a group.
    ///
    /// # Errors
    /// The key is malformed.
    pub fn process_sender_key(&mut self, group: &str, device: DeviceId, key: &[u8]) -> Result<()> {
        let key = SenderKeyDistributionMessage::try_from(key)?;
        resolve_now(process_sender_key_distribution_message(
            &sender_key_name(group, device),
            &key,
            &mut self.sender_keys,
        ))
    }

    /// Encrypts for a group.
    ///
    /// # Errors
    /// There is no sender key of the phone in the group.
    pub fn encrypt_for_group(&mut self, group: &str, own: DeviceId, plaintext: &[u8]) -> Result<Ciphertext> {
        let mut generator = self.random.generator();
        let sealed = resolve_now(group_encrypt(
            &mut self.sender_keys,
            &sender_key_name(group, own),
            plaintext,
            &mut generator,
        ))?;
        Ok(Ciphertext { kind: "skmsg", bytes: sealed.serialized().to_vec() })
    }

    /// Decrypts a `skmsg` of a device.
    ///
    /// # Errors
    /// There is no sender key of the device, or the ciphertext is invalid or was decrypted before.
    pub fn decrypt_from_group(&mut self, group: &str, device: DeviceId, bytes: &[u8]) -> Result<Vec<u8>> {
        resolve_now(group_decrypt(bytes, &mut self.sender_keys, &sender_key_name(group, device)))
    }
}

/// The result of an operation on in-memory stores, which completes on the first poll.
fn resolve_now<T>(operation: impl Future<Output = SignalResult<T>>) -> Result<T> {
    Ok(operation.now_or_never().ok_or(Error::StorePending)??)
}

fn public_key_bytes(key: &PublicKey) -> Result<[u8; 32]> {
    key.public_key_bytes().try_into().map_err(|_| Error::StorePending)
}

/// The address of sessions: the account and the device, independent of the addressing mode.
fn protocol_address(device: DeviceId) -> ProtocolAddress {
    ProtocolAddress::new(&format!("{:?}", device.account), u32::from(device.number).into())
}

fn sender_key_name(group: &str, device: DeviceId) -> SenderKeyName {
    SenderKeyName::from_parts(group, protocol_address(device).as_str())
}

struct Identities {
    own: IdentityKeyPair,
    registration: u32,
    known: HashMap<ProtocolAddress, IdentityKey>,
}

#[async_trait]
impl IdentityKeyStore for Identities {
    async fn get_identity_key_pair(&self) -> SignalResult<IdentityKeyPair> {
        Ok(self.own.clone())
    }

    async fn get_local_registration_id(&self) -> SignalResult<u32> {
        Ok(self.registration)
    }

    async fn save_identity(
        &mut self,
        address: &ProtocolAddress,
        identity: &IdentityKey,
    ) -> SignalResult<IdentityChange> {
        match self.known.insert(address.clone(), *identity) {
            Some(earlier) if earlier != *identity => Ok(IdentityChange::ReplacedExisting),
            _ => Ok(IdentityChange::NewOrUnchanged),
        }
    }

    /// A phone trusts the server's identities, as WhatsApp does until the user compares the codes.
    async fn is_trusted_identity(
        &self,
        _: &ProtocolAddress,
        _: &IdentityKey,
        _: Direction,
    ) -> SignalResult<bool> {
        Ok(true)
    }

    async fn get_identity(&self, address: &ProtocolAddress) -> SignalResult<Option<IdentityKey>> {
        Ok(self.known.get(address).copied())
    }
}

#[derive(Default)]
struct Sessions(HashMap<ProtocolAddress, SessionRecord>);

#[async_trait]
impl SessionStore for Sessions {
    async fn load_session(&self, address: &ProtocolAddress) -> SignalResult<Option<SessionRecord>> {
        Ok(self.0.get(address).cloned())
    }

    async fn has_session(&self, address: &ProtocolAddress) -> SignalResult<bool> {
        Ok(self.0.contains_key(address))
    }

    async fn store_session(&mut self, address: &ProtocolAddress, record: SessionRecord) -> SignalResult<()> {
        self.0.insert(address.clone(), record);
        Ok(())
    }
}

struct SignedPreKeys(SignedPreKeyRecord);

#[async_trait]
impl SignedPreKeyStore for SignedPreKeys {
    async fn get_signed_pre_key(&self, id: SignedPreKeyId) -> SignalResult<SignedPreKeyRecord> {
        if u32::from(id) == SIGNED_PRE_KEY_ID {
            Ok(self.0.clone())
        } else {
            Err(SignalProtocolError::InvalidSignedPreKeyId)
        }
    }

    async fn save_signed_pre_key(
        &mut self,
        _: SignedPreKeyId,
        record: &SignedPreKeyRecord,
    ) -> SignalResult<()> {
        self.0 = record.clone();
        Ok(())
    }
}

/// A phone publishes no one-time keys: its bundle is the same for all devices.
struct EmptyPreKeyStore;

#[async_trait]
impl PreKeyStore for EmptyPreKeyStore {
    async fn get_pre_key(&self, _: PreKeyId) -> SignalResult<PreKeyRecord> {
        Err(SignalProtocolError::InvalidPreKeyId)
    }

    async fn save_pre_key(&mut self, _: PreKeyId, _: &PreKeyRecord) -> SignalResult<()> {
        Ok(())
    }

    async fn remove_pre_key(&mut self, _: PreKeyId) -> SignalResult<()> {
        Ok(())
    }
}

#[derive(Default)]
struct SenderKeys(HashMap<SenderKeyName, SenderKeyRecord>);

#[async_trait]
impl SenderKeyStore for SenderKeys {
    async fn store_sender_key(&mut self, name: &SenderKeyName, record: SenderKeyRecord) -> SignalResult<()> {
        self.0.insert(name.clone(), record);
        Ok(())
    }

    async fn load_sender_key(&self, name: &SenderKeyName) -> SignalResult<Option<SenderKeyRecord>> {
        Ok(self.0.get(name).cloned())
    }
}
