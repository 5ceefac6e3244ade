//! Messages on their way out: what WhatsApp Web has to be told about each, and to whom.

mod build;
mod refer;
mod upload;
mod vcard;

use std::time::Duration;

use whatsapp_rust::proto_helpers::MessageExt as _;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Client, Jid, SendError, SendOptions};

use super::address::{is_person, jid_of};
use super::index::{self, PollNote};
use relevo_domain::{Content, Failure, FailureKind, InstanceNumber, MediaKind, OutboundMessage, Poll, Scope};
use relevo_provider::Shared;

use refer::Referring;

pub(super) use refer::place_of;
pub(super) use upload::Uploads;

/// Phones show "typing …" for longer than this after each time they are told.
const TYPING_IS_SHOWN: Duration = Duration::from_secs(10);

/// Makes messages of one instance ready.
pub(super) struct Composer<'a> {
    pub client: &'a Client,
    pub shared: &'a Shared,
    pub uploads: &'a Uploads,
    pub instance: InstanceNumber,
}

/// A message that is ready to go, files and all.
pub(super) struct Outgoing {
    to: Jid,
    message: wa::Message,
    stanza: String,
}

impl Outgoing {
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
    pub async fn compose(&self, stanza: &str, message: &OutboundMessage) -> Result<Outgoing, Failure> {
        let to = jid_of(&message.to);
        let to = to
            .ok_or_else(|| Failure::permanent("a linked device cannot write to user ids of the Cloud API"))?;
        reach(self.client, &to).await?;
        let store = &self.shared.store;
        let referring = Referring { client: self.client, store, instance: self.instance, chat: &to };
        let mut built = self.build(&referring, stanza, &message.content).await?;
        if let Some(context) = referring.context(message).await? {
            built.set_context_info(context);
        }
        Ok(Outgoing { to, message: built, stanza: stanza.to_owned() })
    }

    async fn build(
        &self,
        referring: &Referring<'_>,
        stanza: &str,
        content: &Content,
    ) -> Result<wa::Message, Failure> {
        let now = i64::try_from(self.shared.clock.now().millis()).unwrap_or(i64::MAX);
        Ok(match content {
            Content::Text { body, preview_url } => build::text(body, *preview_url),
            Content::Media(media) => {
                build::media(media, &self.uploads.of(self.client, self.shared, media).await?)
            }
            Content::Location(location) => build::location(location),
            Content::Contacts { contacts } => build::contacts(contacts),
            Content::Poll(poll) => build::poll(poll, self.secret(stanza, poll).await?),
            Content::Reaction { message_id, emoji } => {
                build::reaction(referring.reacted_to(message_id).await?, emoji, now)
            }
            Content::Edit { message_id, body } => build::edit(referring.edited(message_id).await?, body, now),
            Content::Revoke { message_id } => build::revoke(referring.revoked(message_id)),
            Content::Template(_) | Content::Interactive(_) => {
                return Err(Failure::permanent("a linked device sends no templates, buttons or lists"));
            }
        })
    }

    /// What opens the votes of a poll: made at its first attempt and durable before it leaves, the same for all others.
    async fn secret(&self, stanza: &str, poll: &Poll) -> Result<Vec<u8>, Failure> {
        let own = [self.client.pn(), self.client.lid()];
        let note = PollNote {
            secret: rand::random::<[u8; 32]>().to_vec(),
            options: poll.options.clone(),
            authors: own.into_iter().flatten().map(|jid| jid.to_non_ad_string()).collect(),
        };
        let kept = index::keep_poll(&self.shared.store, self.instance, stanza, note).await;
        kept.map(|note| note.secret)
            .map_err(|cause| Failure::transient(format!("the data folder failed: {cause}")))
    }
}

/// Makes sure that at least one device of a person can read what is sent: the client takes a message that it could
/// encrypt for nobody, and says so to nobody.
async fn reach(client: &Client, to: &Jid) -> Result<(), Failure> {
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
        return Err(Failure::new(FailureKind::Permanent, Scope::Recipient, said));
    }
    signal.assert_sessions(&devices).await.map_err(|cause| unclear(&cause))?;
    for device in &devices {
        if signal.validate_session(device).await.map_err(|cause| unclear(&cause))? {
            return Ok(());
        }
    }
    let said = format!("WhatsApp gave no keys for any device of {to}, so the message would reach nobody");
    Err(Failure::new(FailureKind::Transient { max_attempts: Some(5) }, Scope::Recipient, said))
}

/// Shows the recipient for as long as the message says that it is being written.
pub(super) async fn show_typing(client: &Client, message: &OutboundMessage) {
    let Some(to) = jid_of(&message.to).filter(|_| !message.manner.typing.is_zero()) else { return };
    let recording =
        matches!(&message.content, Content::Media(media) if media.kind == MediaKind::Audio && media.voice);
    let mut left = message.manner.typing;
    while !left.is_zero() {
        show(client, &to, recording).await;
        let pause = left.min(TYPING_IS_SHOWN);
        tokio::time::sleep(pause).await;
        left -= pause;
    }
}

/// Shows somebody once that an answer is being written.
pub(super) async fn typing(client: &Client, to: &Jid) {
    show(client, to, false).await;
}

/// It is an ornament: a message is not held back because it could not be shown.
async fn show(client: &Client, to: &Jid, recording: bool) {
    let state = client.chatstate();
    let shown = if recording { state.send_recording(to).await } else { state.send_composing(to).await };
    if let Err(cause) = shown {
        tracing::debug!(%cause, "it could not be shown that a message is being written");
    }
}
