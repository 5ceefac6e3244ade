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
use super::directory::DirectoryEntry;

/// A message that somebody wants an instance to send.
#[derive(Debug, Clone)]
pub struct SendRequest {
    pub message: OutboundMessage,
    pub class: Class,
    pub idempotency: Option<IdempotencyKey>,
    /// After this moment it must not be sent any more.
    pub expires_at: Option<Timestamp>,
    /// Not before this moment.
    pub send_at: Option<Timestamp>,
}

/// Refuses what WhatsApp would refuse for certain, and links that lead where they must not.
pub(super) async fn build_submission(
    known: &DirectoryEntry,
    egress: &Egress,
    send: SendRequest,
    mode: Mode,
    on_ambiguous: AmbiguousPolicy,
) -> Result<Submission, Error> {
    known.checker.check(&send.message)?;
    if let Some((field, link)) = media_url_of(&send.message.content) {
        egress.check(link).await.map_err(|cause| Error::UrlRefused { field, cause })?;
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
        repeatable: known.record.config.provider.capabilities().deduplicates_resends,
        item: None,
    })
}

/// Checks one message after another of those that one instance is to send. A link that many have in common is looked
/// at once.
pub struct MessageChecker {
    instance: Arc<DirectoryEntry>,
    egress: Egress,
    checked_urls: HashSet<Url>,
}

impl MessageChecker {
    pub(super) fn new(instance: Arc<DirectoryEntry>, egress: Egress) -> Self {
        Self { instance, egress, checked_urls: HashSet::new() }
    }

    /// Refuses what [`Handle::enqueue`](super::Handle::enqueue) would refuse.
    pub async fn check(&mut self, message: &OutboundMessage) -> Result<(), Error> {
        self.instance.checker.check(message)?;
        if let Some((field, link)) = media_url_of(&message.content)
            && !self.checked_urls.contains(link)
        {
            self.egress.check(link).await.map_err(|cause| Error::UrlRefused { field, cause })?;
            self.checked_urls.insert(link.clone());
        }
        Ok(())
    }
}

fn media_url_of(content: &Content) -> Option<(&'static str, &Url)> {
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
