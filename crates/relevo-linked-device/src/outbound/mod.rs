//! Outgoing messages: composes the WhatsApp Web message of a domain message and sends it.

mod message_builder;
mod message_key;
mod upload;
mod vcard;

use std::time::Duration;

use whatsapp_rust::proto_helpers::MessageExt as _;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Client, Jid, SendError, SendOptions};

use super::jid::{is_person, jid_from_recipient};
use super::message_cache::{self, CachedPoll};
use relevo_domain::{
    Content, Failure, FailureKind, FailureScope, InstanceNumber, MediaKind, OutboundMessage, Poll,
};
use relevo_provider::ProviderResources;

use message_key::MessageKeyBuilder;

pub(super) use message_key::mark_read_target;
pub(super) use upload::Uploads;

/// Interval at which the typing indicator is sent again; phones show it for longer than this.
const TYPING_REFRESH: Duration = Duration::from_secs(10);

/// Composes messages of one instance.
pub(super) struct Composer<'a> {
    pub client: &'a Client,
    pub shared: &'a ProviderResources,
    pub uploads: &'a Uploads,
    pub instance: InstanceNumber,
}

/// A composed message, with its files uploaded.
pub(super) struct OutgoingStanza {
    to: Jid,
    message: wa::Message,
    stanza: String,
}

impl OutgoingStanza {
    /// Encrypts the message for every device of the recipient and writes it to the socket. Only WhatsApp's
    /// acknowledgement of the stanza confirms that it was received.
    pub async fn send(self, client: &Client) -> Result<(), SendError> {
        let options = SendOptions::default().with_message_id(self.stanza);
        client.send_message_with_options(self.to, self.message, options).await.map(drop)
    }
}

impl Composer<'_> {
    /// Composes a message under the id of its stanza. Nothing is sent to the recipient, so no failure is ambiguous.
    pub async fn compose(&self, stanza: &str, message: &OutboundMessage) -> Result<OutgoingStanza, Failure> {
        let to = jid_from_recipient(&message.to)
            .ok_or_else(|| Failure::permanent("a linked device cannot write to user ids of the Cloud API"))?;
        ensure_sessions(self.client, &to).await?;
        let store = &self.shared.store;
        let keys = MessageKeyBuilder { client: self.client, store, instance: self.instance, chat: &to };
        let mut composed = self.build(&keys, stanza, &message.content).await?;
        if let Some(context) = keys.context_info(message).await? {
            composed.set_context_info(context);
        }
        Ok(OutgoingStanza { to, message: composed, stanza: stanza.to_owned() })
    }

    async fn build(
        &self,
        keys: &MessageKeyBuilder<'_>,
        stanza: &str,
        content: &Content,
    ) -> Result<wa::Message, Failure> {
        let now = i64::try_from(self.shared.clock.now().millis()).unwrap_or(i64::MAX);
        Ok(match content {
            Content::Text { body, preview_url } => message_builder::text(body, *preview_url),
            Content::Media(media) => {
                message_builder::media(media, &self.uploads.upload(self.client, self.shared, media).await?)
            }
            Content::Location(location) => message_builder::location(location),
            Content::Contacts { contacts } => message_builder::contacts(contacts),
            Content::Poll(poll) => message_builder::poll(poll, self.poll_secret(stanza, poll).await?),
            Content::Reaction { message_id, emoji } => {
                message_builder::reaction(keys.reaction_key(message_id).await?, emoji, now)
            }
            Content::Edit { message_id, body } => {
                message_builder::edit(keys.edit_key(message_id).await?, body, now)
            }
            Content::Revoke { message_id } => message_builder::revoke(keys.revoke_key(message_id)),
            Content::Template(_) | Content::Interactive(_) => {
                return Err(Failure::permanent("a linked device sends no templates, buttons or lists"));
            }
        })
    }

    /// The secret that decrypts the votes of a poll. It is generated at the first attempt, durable before the poll is
    /// sent, and the same for all further attempts.
    async fn poll_secret(&self, stanza: &str, poll: &Poll) -> Result<Vec<u8>, Failure> {
        let own = [self.client.pn(), self.client.lid()];
        let new_poll = CachedPoll {
            secret: self.shared.random.value::<[u8; 32]>().to_vec(),
            options: poll.options.clone(),
            authors: own.into_iter().flatten().map(|jid| jid.to_non_ad_string()).collect(),
        };
        match message_cache::insert_poll(&self.shared.store, self.instance, stanza, new_poll).await {
            Ok(stored) => Ok(stored.secret),
            Err(cause) => Err(Failure::transient(format!("the data folder failed: {cause}"))),
        }
    }
}

/// Ensures that at least one device of a person can decrypt the message: the client accepts a message that it cannot
/// encrypt for any device, and does not report it.
async fn ensure_sessions(client: &Client, to: &Jid) -> Result<(), Failure> {
    let own = [client.pn(), client.lid()];
    if !is_person(to) || own.iter().flatten().any(|own| own.user == to.user) {
        return Ok(());
    }
    let query_failed = |cause: &dyn std::fmt::Display| {
        Failure::transient(format!("the devices of the recipient could not be queried: {cause}"))
    };
    let signal = client.signal();
    let devices =
        signal.get_user_devices(std::slice::from_ref(to)).await.map_err(|cause| query_failed(&cause))?;
    if devices.is_empty() {
        let text = format!("{to} is not on WhatsApp");
        return Err(Failure::new(FailureKind::Permanent, FailureScope::Recipient, text));
    }
    signal.assert_sessions(&devices).await.map_err(|cause| query_failed(&cause))?;
    for device in &devices {
        if signal.validate_session(device).await.map_err(|cause| query_failed(&cause))? {
            return Ok(());
        }
    }
    let text =
        format!("WhatsApp returned no keys for any device of {to}, so no device could read the message");
    Err(Failure::new(FailureKind::Transient { max_attempts: Some(5) }, FailureScope::Recipient, text))
}

/// Shows the recipient that the message is being written, for the duration that the message sets.
pub(super) async fn show_typing(client: &Client, message: &OutboundMessage) {
    let Some(to) = jid_from_recipient(&message.to).filter(|_| !message.options.typing.is_zero()) else {
        return;
    };
    let recording =
        matches!(&message.content, Content::Media(media) if media.kind == MediaKind::Audio && media.voice);
    let mut remaining = message.options.typing;
    while !remaining.is_zero() {
        send_chat_state(client, &to, recording).await;
        let pause = remaining.min(TYPING_REFRESH);
        tokio::time::sleep(pause).await;
        remaining -= pause;
    }
}

/// Sends the typing indicator once.
pub(super) async fn send_typing(client: &Client, to: &Jid) {
    send_chat_state(client, to, false).await;
}

/// Sends a chat state. A failure is only logged, because it must not delay the message.
async fn send_chat_state(client: &Client, to: &Jid, recording: bool) {
    let state = client.chatstate();
    let shown = if recording { state.send_recording(to).await } else { state.send_composing(to).await };
    if let Err(cause) = shown {
        tracing::debug!(%cause, "typing indicator not sent; message sent without it");
    }
}
