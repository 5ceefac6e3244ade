//! The encrypted transport, on the server's side: Noise XX for new clients, IK for clients with the server's key, and
//! XXfallback for clients with an old key. The certificate chain is generated here and unsigned: a client accepts it
//! only when it was built with the feature `linked-sandbox`.

use bytes::{Bytes, BytesMut};
use relevo_linked_device::client::wacore::libsignal::protocol::KeyPair;
use relevo_linked_device::client::wacore::noise::{HandshakeError, NoiseCipher, NoiseError, NoiseHandshake};
use relevo_linked_device::client::wacore_binary::consts::{
    NOISE_PATTERN_IK, NOISE_PATTERN_XX, NOISE_PATTERN_XXFALLBACK, WA_CONN_HEADER,
};
use relevo_linked_device::client::wacore_binary::error::BinaryError;
use relevo_linked_device::client::wacore_binary::marshal::{marshal, unmarshal_ref};
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::util::unpack;
use relevo_linked_device::client::waproto::buffa::{self, Message as _, MessageField};
use relevo_linked_device::client::waproto::whatsapp::cert_chain::{NoiseCertificate, noise_certificate};
use relevo_linked_device::client::waproto::whatsapp::handshake_message::{ClientHello, ServerHello};
use relevo_linked_device::client::waproto::whatsapp::{self as wa, HandshakeMessage};

use relevo_clock::Random;

/// Reason why a handshake or a transport failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the handshake lacks {0}")]
    Incomplete(&'static str),
    #[error("the handshake is not a protobuf: {0}")]
    Protobuf(#[from] buffa::DecodeError),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("a frame cannot be decrypted: {0}")]
    Cipher(#[from] NoiseError),
    #[error("a frame contains no stanza: {0}")]
    Stanza(#[from] BinaryError),
    #[error("the transport has used all its frame counters")]
    CounterExhausted,
}

/// The server's key and certificates. Clients store the key for Noise IK.
pub struct ServerIdentity {
    key: KeyPair,
    certificate_chain: Vec<u8>,
}

impl ServerIdentity {
    /// A new key with a certificate chain that is valid from 2001 to 2096.
    pub fn generate(random: &Random) -> Self {
        let key = KeyPair::generate(&mut random.generator());
        let certificate_chain = certificate_chain(key.public_key.public_key_bytes());
        Self { key, certificate_chain }
    }
}

/// A leaf certificate of the server's key and an intermediate one, both unsigned. WhatsApp's root has the serial 0.
fn certificate_chain(server_key: &[u8]) -> Vec<u8> {
    const NOT_BEFORE: u64 = 1_000_000_000;
    const NOT_AFTER: u64 = 4_000_000_000;
    let certificate = |serial, issuer_serial, key: Vec<u8>| {
        let details = noise_certificate::Details {
            serial: Some(serial),
            issuer_serial: Some(issuer_serial),
            key: Some(key),
            not_before: Some(NOT_BEFORE),
            not_after: Some(NOT_AFTER),
        };
        MessageField::some(NoiseCertificate {
            details: Some(details.encode_to_vec()),
            signature: Some(vec![0; 64]),
        })
    };
    let intermediate = certificate(1, 0, vec![0; 32]);
    let leaf = certificate(2, 1, server_key.to_vec());
    wa::CertChain { leaf, intermediate }.encode_to_vec()
}

/// The next step after a client's first message.
pub enum HandshakeStep {
    /// IK: the answer completes the handshake.
    Complete { answer: Vec<u8>, transport: NoiseTransport, payload: Vec<u8> },
    /// XX or XXfallback: the handshake requires the client's second message after the answer.
    AwaitFinish { answer: Vec<u8>, rest: Box<PendingHandshake> },
}

/// Handles a client's first message.
///
/// # Errors
/// The message is malformed, or its ciphertexts are invalid.
pub fn read_client_hello(
    identity: &ServerIdentity,
    random: &Random,
    frame: &[u8],
) -> Result<HandshakeStep, Error> {
    let ours = KeyPair::generate(&mut random.generator());
    let hello = HandshakeMessage::decode_from_slice(frame)?
        .client_hello
        .into_option()
        .ok_or(Error::Incomplete("a client hello"))?;
    let ephemeral = hello.ephemeral.clone().ok_or(Error::Incomplete("the client's ephemeral key"))?;
    if hello.r#static.is_none() || hello.payload.is_none() {
        return respond_xx(identity, ours, NOISE_PATTERN_XX, &ephemeral);
    }
    match respond_ik(identity, &ours, &ephemeral, &hello) {
        Err(Error::Handshake(HandshakeError::Noise(NoiseError::Decrypt(_)))) => {
            respond_xx(identity, ours, NOISE_PATTERN_XXFALLBACK, &ephemeral)
        }
        opened => opened,
    }
}

/// Noise IK: `-> e, es, s, ss` then `<- e, ee, se`.
fn respond_ik(
    identity: &ServerIdentity,
    ours: &KeyPair,
    theirs: &[u8],
    hello: &ClientHello,
) -> Result<HandshakeStep, Error> {
    let mut noise = NoiseHandshake::new(NOISE_PATTERN_IK, &WA_CONN_HEADER)?;
    noise.authenticate(identity.key.public_key.public_key_bytes());
    noise.authenticate(theirs);
    noise.mix_shared_secret(identity.key.private_key.serialize(), theirs)?;
    let client_key = noise.decrypt(hello.r#static.as_deref().unwrap_or_default())?;
    noise.mix_shared_secret(identity.key.private_key.serialize(), &client_key)?;
    let payload = noise.decrypt(hello.payload.as_deref().unwrap_or_default())?;
    noise.authenticate(ours.public_key.public_key_bytes());
    noise.mix_shared_secret(ours.private_key.serialize(), theirs)?;
    noise.mix_shared_secret(ours.private_key.serialize(), &client_key)?;
    let chain = noise.encrypt(&identity.certificate_chain)?;
    let answer = server_hello(ours, None, chain);
    Ok(HandshakeStep::Complete { answer, transport: NoiseTransport::new(noise)?, payload })
}

/// Noise XX: `-> e` then `<- e, ee, s, es`. XXfallback reuses the ephemeral key of the failed IK handshake.
fn respond_xx(
    identity: &ServerIdentity,
    ours: KeyPair,
    pattern: &str,
    theirs: &[u8],
) -> Result<HandshakeStep, Error> {
    let mut noise = NoiseHandshake::new(pattern, &WA_CONN_HEADER)?;
    noise.authenticate(theirs);
    noise.authenticate(ours.public_key.public_key_bytes());
    noise.mix_shared_secret(ours.private_key.serialize(), theirs)?;
    let server_key = noise.encrypt(identity.key.public_key.public_key_bytes())?;
    noise.mix_shared_secret(identity.key.private_key.serialize(), theirs)?;
    let chain = noise.encrypt(&identity.certificate_chain)?;
    let answer = server_hello(&ours, Some(server_key), chain);
    Ok(HandshakeStep::AwaitFinish { answer, rest: Box::new(PendingHandshake { noise, own_key_pair: ours }) })
}

fn server_hello(ours: &KeyPair, server_key: Option<Vec<u8>>, chain: Vec<u8>) -> Vec<u8> {
    let hello = ServerHello {
        ephemeral: Some(ours.public_key.public_key_bytes().to_vec()),
        r#static: server_key,
        payload: Some(chain),
        ..Default::default()
    };
    HandshakeMessage { server_hello: MessageField::some(hello), ..Default::default() }.encode_to_vec()
}

/// A handshake that waits for the client's second message.
pub struct PendingHandshake {
    noise: NoiseHandshake,
    own_key_pair: KeyPair,
}

impl PendingHandshake {
    /// Handles `-> s, se`. Returns the transport and the client's payload.
    ///
    /// # Errors
    /// The message is malformed, or its ciphertexts are invalid.
    pub fn complete(mut self, frame: &[u8]) -> Result<(NoiseTransport, Vec<u8>), Error> {
        let finish = HandshakeMessage::decode_from_slice(frame)?
            .client_finish
            .into_option()
            .ok_or(Error::Incomplete("a client finish"))?;
        let client_key = self.noise.decrypt(finish.r#static.as_deref().unwrap_or_default())?;
        self.noise.mix_shared_secret(self.own_key_pair.private_key.serialize(), &client_key)?;
        let payload = self.noise.decrypt(finish.payload.as_deref().unwrap_or_default())?;
        Ok((NoiseTransport::new(self.noise)?, payload))
    }
}

/// Both directions of an established connection.
pub struct NoiseTransport {
    inward: NoiseCipher,
    outward: NoiseCipher,
    received: u32,
    sent: u32,
}

impl NoiseTransport {
    fn new(noise: NoiseHandshake) -> Result<Self, Error> {
        // The client's write cipher is the server's read cipher.
        let (inward, outward) = noise.finish()?;
        Ok(Self { inward, outward, received: 0, sent: 0 })
    }

    /// Decrypts the stanza in a frame.
    ///
    /// # Errors
    /// The frame is not authentic or contains no stanza.
    pub fn decrypt(&mut self, mut frame: BytesMut) -> Result<Node, Error> {
        self.inward.decrypt_in_place_with_counter(self.received, &mut frame)?;
        self.received = self.received.checked_add(1).ok_or(Error::CounterExhausted)?;
        let stanza = unpack(&frame)?;
        Ok(unmarshal_ref(&stanza)?.to_owned())
    }

    /// Encrypts a stanza into a frame.
    ///
    /// # Errors
    /// The stanza cannot be encoded, or the frame counter is exhausted.
    pub fn encrypt(&mut self, stanza: &Node) -> Result<Bytes, Error> {
        let frame = self.outward.encrypt_with_counter(self.sent, &marshal(stanza)?)?;
        self.sent = self.sent.checked_add(1).ok_or(Error::CounterExhausted)?;
        Ok(frame.into())
    }
}
