//! Checks a message before it is accepted into the queue. An accepted message has passed the provider's limits, and its
//! links lead to allowed addresses, as far as their names can be resolved.

use std::collections::HashSet;
use std::sync::Arc;

use url::Url;

use crate::queue::{IdempotencyKey, Submission};
use relevo_domain::{AmbiguousPolicy, Class, Content, MediaSource, Mode, OutboundMessage, Timestamp};
use relevo_egress::Egress;

use super::Error;
use super::directory::DirectoryEntry;

/// A request to send one message.
#[derive(Debug, Clone)]
pub struct SendRequest {
    pub message: OutboundMessage,
    pub class: Class,
    pub idempotency: Option<IdempotencyKey>,
    /// The message is not sent after this time.
    pub expires_at: Option<Timestamp>,
    /// The message is not sent before this time.
    pub send_at: Option<Timestamp>,
}

/// Checks a message and builds its queue submission.
///
/// # Errors
///
/// WhatsApp would reject the message, or a link leads to an address that is not allowed.
pub(super) async fn build_submission(
    entry: &DirectoryEntry,
    egress: &Egress,
    send: SendRequest,
    mode: Mode,
    on_ambiguous: AmbiguousPolicy,
) -> Result<Submission, Error> {
    entry.checker.check(&send.message)?;
    for (field, link) in media_urls_of(&send.message.content) {
        check_link(egress, field, link).await?;
    }
    Ok(Submission {
        instance: entry.number,
        message: send.message,
        class: send.class,
        mode,
        idempotency: send.idempotency,
        expires_at: send.expires_at,
        send_at: send.send_at,
        on_ambiguous: entry.record.config.on_ambiguous.unwrap_or(on_ambiguous),
        repeatable: entry.record.config.provider.kind().capabilities().deduplicates_resends,
        item: None,
    })
}

/// Checks many messages for one instance. Each link is checked once.
pub struct MessageChecker {
    instance: Arc<DirectoryEntry>,
    egress: Egress,
    checked_urls: HashSet<Url>,
}

impl MessageChecker {
    pub(super) fn new(instance: Arc<DirectoryEntry>, egress: Egress) -> Self {
        Self { instance, egress, checked_urls: HashSet::new() }
    }

    /// Checks a message as [`Handle::enqueue`](super::Handle::enqueue) does.
    ///
    /// # Errors
    ///
    /// WhatsApp would reject the message, or a link leads to an address that is not allowed.
    pub async fn check(&mut self, message: &OutboundMessage) -> Result<(), Error> {
        self.instance.checker.check(message)?;
        for (field, link) in media_urls_of(&message.content) {
            if self.checked_urls.contains(link) {
                continue;
            }
            check_link(&self.egress, field, link).await?;
            self.checked_urls.insert(link.clone());
        }
        Ok(())
    }
}

/// Refuses a link that leads to an address that is not allowed. A name that cannot be resolved now is no mistake of the
/// caller: who fetches the file (WhatsApp, or a linked device through the guard) resolves it again, and a failure there
/// is retried like any other.
async fn check_link(egress: &Egress, field: &'static str, link: &Url) -> Result<(), Error> {
    match egress.check(link).await {
        Err(cause) if cause.is_refusal() => Err(Error::UrlRefused { field, cause }),
        Err(cause) => {
            tracing::debug!(%cause, field, "link not checked; the message is accepted");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Links of the content that the egress guard must check, each with the request field that contains it.
fn media_urls_of(content: &Content) -> impl Iterator<Item = (&'static str, &Url)> {
    let field = if matches!(content, Content::Media(_)) { "media_url" } else { "header_content" };
    content.media().filter_map(move |source| match source {
        MediaSource::Link(url) => Some((field, url)),
        MediaSource::Blob(_) | MediaSource::ProviderId(_) => None,
    })
}
