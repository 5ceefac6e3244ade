//! Meta's WhatsApp Cloud API over the Graph API.
//!
//! A [`send`](Provider::send) posts a message once, with our id in it. It posts a second time only after Meta rejected
//! the first post because of its media id, which sent nothing. A message that is reported as not sent was certainly not
//! sent: Meta said so, or the request never went out. An unknown outcome is reported as ambiguous. Files are uploaded once and reused. Three modules hold the facts
//! about Meta: `limits` (what it accepts), `errors` (what its codes mean) and `wire` (its message format).

mod downloads;
mod errors;
mod graph;
mod limits;
mod parse;
mod signature;
mod uploads;
mod wire;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use relevo_domain::{CloudApiSettings, Failure, MessageId, OutboundMessage, ProviderKind, ProviderMessageId};
use relevo_provider::{
    CheckError, Error, LinkedProvider, MarkReadRequest, MediaStream, Provider, ProviderResources, RemoteMedia,
};

use graph::{GraphClient, idempotent_failure, unexpected_response};
use uploads::Uploads;

pub use parse::{
    AccountChange, MarketingPreference, ReceivedMessage, ReceivedStatus, Update, count_messages,
    first_sender, parse_webhook, split_messages, without_messages,
};
pub use signature::{BodyMac, ClaimedSignature};

/// One phone number on the Cloud API.
pub struct CloudApi {
    graph: Arc<GraphClient>,
    uploads: Uploads,
}

impl CloudApi {
    /// Checks the settings. Makes no request.
    ///
    /// # Errors
    ///
    /// A setting is invalid.
    pub fn new(settings: CloudApiSettings, shared: ProviderResources) -> Result<Self, Error> {
        let graph = Arc::new(GraphClient::new(&settings, shared.egress.clone())?);
        let uploads = Uploads::new(&settings.phone_number_id, Arc::clone(&graph), shared);
        Ok(Self { graph, uploads })
    }

    async fn attempt(&self, id: MessageId, message: &OutboundMessage) -> Result<ProviderMessageId, Failure> {
        let Some(blob) = message.content.blob() else {
            return self.post(id, message, None).await;
        };
        let media = self.uploads.media_id(blob).await?;
        match self.post(id, message, Some(&media)).await {
            // Meta rejected the message because of its media id, so nothing was sent: post it again with a fresh id.
            Err(failure) if errors::may_be_stale_media(&failure) => {
                self.uploads.delete(blob, &media).await;
                let media = self.uploads.media_id(blob).await?;
                self.post(id, message, Some(&media)).await
            }
            outcome => outcome,
        }
    }

    async fn post(
        &self,
        id: MessageId,
        message: &OutboundMessage,
        media: Option<&str>,
    ) -> Result<ProviderMessageId, Failure> {
        let request = wire::MessageRequest::new(id, message, media)
            .ok_or_else(|| Failure::permanent("the Cloud API has no message of this type"))?;
        parse_message_id(&self.graph.post_message(&request).await?)
    }
}

/// Reads WhatsApp's message id from the answer to an accepted message.
fn parse_message_id(body: &Bytes) -> Result<ProviderMessageId, Failure> {
    #[derive(Deserialize)]
    struct SendResponse<'a> {
        #[serde(borrow)]
        messages: Vec<SentMessage<'a>>,
    }
    #[derive(Deserialize)]
    struct SentMessage<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    let answer = serde_json::from_slice::<SendResponse>(body).ok();
    let id = answer.as_ref().and_then(|answer| answer.messages.first()?.id.parse().ok());
    id.ok_or_else(|| unexpected_response(body))
}

impl Provider for CloudApi {
    fn kind(&self) -> ProviderKind {
        ProviderKind::CloudApi
    }

    fn linked(&self) -> Option<&dyn LinkedProvider> {
        None
    }

    fn check(&self, message: &OutboundMessage) -> Result<(), CheckError> {
        limits::check(message)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { self.graph.probe().await.map_err(idempotent_failure) })
    }

    fn send<'a>(
        &'a self,
        id: MessageId,
        message: &'a OutboundMessage,
    ) -> BoxFuture<'a, Result<ProviderMessageId, Failure>> {
        Box::pin(self.attempt(id, message))
    }

    fn mark_read<'a>(
        &'a self,
        read: &'a MarkReadRequest,
        typing: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let mark = wire::MarkReadObject::new(&read.message, typing);
        Box::pin(async move { self.graph.post_message(&mark).await.map(drop).map_err(idempotent_failure) })
    }

    fn media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>> {
        Box::pin(downloads::describe(&self.graph, id))
    }

    fn open_media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(RemoteMedia, MediaStream), Failure>> {
        Box::pin(downloads::open(&self.graph, id))
    }
}

#[cfg(test)]
mod tests;
