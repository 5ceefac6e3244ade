//! What is checked before a message is accepted: afterwards it is the node's to deliver.

use std::collections::HashSet;
use std::sync::Arc;

use url::Url;

use crate::queue::{IdempotencyKey, Submission};
use relevo_domain::{
    AmbiguousPolicy, Class, Content, Header, Interactive, Media, MediaSource, Mode, OutboundMessage,
    Timestamp,
};
use relevo_egress::Egress;

use super::Error;
use super::directory::Known;

/// A message that somebody wants an instance to send.
#[derive(Debug, Clone)]
pub struct Send {
    pub message: OutboundMessage,
    pub class: Class,
    pub idempotency: Option<IdempotencyKey>,
    /// After this moment it must not be sent any more.
    pub expires_at: Option<Timestamp>,
    /// Not before this moment.
    pub send_at: Option<Timestamp>,
}

/// Refuses what WhatsApp would refuse for certain, and links that lead where they must not.
pub(super) async fn admit(
    known: &Known,
    egress: &Egress,
    send: Send,
    mode: Mode,
    on_ambiguous: AmbiguousPolicy,
) -> Result<Submission, Error> {
    known.checker.check(&send.message)?;
    if let Some((field, link)) = link_of(&send.message.content) {
        egress.check(link).await.map_err(|cause| Error::Link { field, cause })?;
    }
    Ok(Submission {
        instance: known.number,
        message: send.message,
        class: send.class,
        mode,
        idempotency: send.idempotency,
        expires_at: send.expires_at,
        send_at: send.send_at,
        on_ambiguous: known.record.config.on_ambiguous.unwrap_or(on_ambiguous),
        repeatable: known.record.config.provider.recognises_repeats(),
        item: None,
    })
}

/// Checks one message after another of those that one instance is to send. A link that many have in common is looked
/// at once.
pub struct Gate {
    known: Arc<Known>,
    egress: Egress,
    links: HashSet<Url>,
}

impl Gate {
    pub(super) fn new(known: Arc<Known>, egress: Egress) -> Self {
        Self { known, egress, links: HashSet::new() }
    }

    /// Refuses what [`Handle::enqueue`](super::Handle::enqueue) would refuse.
    pub async fn check(&mut self, message: &OutboundMessage) -> Result<(), Error> {
        self.known.checker.check(message)?;
        if let Some((field, link)) = link_of(&message.content)
            && !self.links.contains(link)
        {
            self.egress.check(link).await.map_err(|cause| Error::Link { field, cause })?;
            self.links.insert(link.clone());
        }
        Ok(())
    }
}

fn link_of(content: &Content) -> Option<(&'static str, &Url)> {
    match content {
        Content::Media(Media { source: MediaSource::Link(url), .. }) => Some(("media_url", url)),
        Content::Interactive(
            Interactive::Buttons { header, .. }
            | Interactive::CtaUrl { header, .. }
            | Interactive::Flow { header, .. },
        ) => match header {
            Some(Header::Media { source: MediaSource::Link(url), .. }) => Some(("header_content", url)),
            _ => None,
        },
        _ => None,
    }
}
