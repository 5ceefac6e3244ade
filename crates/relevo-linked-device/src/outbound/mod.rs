//! Messages on their way out: what WhatsApp Web has to be told about each, and to whom.

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

/// Phones show "typing …" for longer than this after each time they are told.
const TYPING_REFRESH: Duration = Duration::from_secs(10);

/// Makes messages of one instance ready.
pub(super) struct Composer<'a> {
    pub client: &'a Client,
    pub shared: &'a ProviderResources,
    pub uploads: &'a Uploads,
    pub instance: InstanceNumber,
}

/// A message that is ready to go, files and all.
pub(super) struct OutgoingStanza {
    to: Jid,
    message: wa::Message,
    stanza: String,
}

impl OutgoingStanza {
    /// Writes it to the socket, encrypted for every device of the recipient. That WhatsApp has it is told by its
    /// acknowledgement of the stanza alone.
    pub async fn send(self, client: &Client) -> Result<(), SendError> {
        let options = SendOptions::default().with_message_id(self.stanza);
        client.send_message_with_options(self.to, self.message, options).await.map(drop)
    }
}

impl Composer<'_> {
    /// Makes a message ready under the id of its stanza. Nothing of it has left for its recipient when this answers, so
    /// no failure is ambiguous.
    pub async fn compose(&self, stanza: &str, message: &OutboundMessage) -> Result<OutgoingStanza, Failure> {
        let to = jid_from_recipient(&message.to);
        let to = to
            .ok_or_else(|| Failure::permanent("a linked device cannot write to user ids of the Cloud API"))?;
        ensure_sessions(self.client, &to).await?;
        let store = &self.shared.store;
        let referring = MessageKeyBuilder { client: self.client, store, instance: self.instance, chat: &to };
        let mut built = self.build(&referring, stanza, &message.content).await?;
        if let Some(context) = referring.context_info(message).await? {
            built.set_context_info(context);
        }
        Ok(OutgoingStanza { to, message: built, stanza: stanza.to_owned() })
    }

    async fn build(
        &self,
        referring: &MessageKeyBuilder<'_>,
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
                message_builder::reaction(referring.reaction_key(message_id).await?, emoji, now)
            }
            Content::Edit { message_id, body } => {
                message_builder::edit(referring.edit_key(message_id).await?, body, now)
            }
            Content::Revoke { message_id } => message_builder::revoke(referring.revoke_key(message_id)),
            Content::Template(_) | Content::Interactive(_) => {
                return Err(Failure::permanent("a linked device sends no templates, buttons or lists"));
            }
        })
    }

    /// What opens the votes of a poll: made at its first attempt and durable before it leaves, the same for all others.
    async fn poll_secret(&self, stanza: &str, poll: &Poll) -> Result<Vec<u8>, Failure> {
        let own = [self.client.pn(), self.client.lid()];
        let note = CachedPoll {
            secret: rand::random::<[u8; 32]>().to_vec(),
            options: poll.options.clone(),
            authors: own.into_iter().flatten().map(|jid| jid.to_non_ad_string()).collect(),
        };
        let kept = message_cache::insert_poll(&self.shared.store, self.instance, stanza, note).await;
        kept.map(|note| note.secret)
            .map_err(|cause| Failure::transient(format!("the data folder failed: {cause}")))
    }
}

/// Makes sure that at least one device of a person can read what is sent: the client takes a message that it could
/// encrypt for nobody, and says so to nobody.
async fn ensure_sessions(client: &Client, to: &Jid) -> Result<(), Failure> {
    let own = [client.pn(), client.lid()];
    if !is_person(to) || own.iter().flatten().any(|own| own.user == to.user) {
        return Ok(());
    }
    let unclear = |cause: &dyn std::fmt::Display| {
        Failure::transient(format!("WhatsApp did not say whom to encrypt for: {cause}"))
    };
    let signal = client.signal();
    let devices = signal.get_user_devices(std::slice::from_ref(to)).await.map_err(|cause| unclear(&cause))?;
    if devices.is_empty() {
        let said = format!("{to} is not on WhatsApp");
        return Err(Failure::new(FailureKind::Permanent, FailureScope::Recipient, said));
    }
    signal.assert_sessions(&devices).await.map_err(|cause| unclear(&cause))?;
    for device in &devices {
        if signal.validate_session(device).await.map_err(|cause| unclear(&cause))? {
            return Ok(());
        }
    }
    let said = format!("WhatsApp gave no keys for any device of {to}, so the message would reach nobody");
    Err(Failure::new(FailureKind::Transient { max_attempts: Some(5) }, FailureScope::Recipient, said))
}

/// Shows the recipient for as long as the message says that it is being written.
pub(super) async fn show_typing(client: &Client, message: &OutboundMessage) {
    let Some(to) = jid_from_recipient(&message.to).filter(|_| !message.options.typing.is_zero()) else {
        return;
    };
    let recording =
        matches!(&message.content, Content::Media(media) if media.kind == MediaKind::Audio && media.voice);
    let mut left = message.options.typing;
    while !left.is_zero() {
        send_chat_state(client, &to, recording).await;
        let pause = left.min(TYPING_REFRESH);
        tokio::time::sleep(pause).await;
        left -= pause;
    }
}

/// Shows somebody once that an answer is being written.
pub(super) async fn send_typing(client: &Client, to: &Jid) {
    send_chat_state(client, to, false).await;
}

/// It is an ornament: a message is not held back because it could not be shown.
async fn send_chat_state(client: &Client, to: &Jid, recording: bool) {
    let state = client.chatstate();
    let shown = if recording { state.send_recording(to).await } else { state.send_composing(to).await };
    if let Err(cause) = shown {
        tracing::debug!(%cause, "it could not be shown that a message is being written");
    }
}
