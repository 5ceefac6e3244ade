//! Meta's WhatsApp Cloud API over the Graph API.

use futures_util::future::BoxFuture;

use crate::domain::{CloudApiSettings, Failure, MessageId, OutboundMessage, ProviderKind, ProviderMessageId};

use super::{Error, Provider, Refusal, Shared};

/// One phone number on the Cloud API.
pub struct CloudApi {
    settings: CloudApiSettings,
    shared: Shared,
}

impl CloudApi {
    pub fn new(settings: CloudApiSettings, shared: Shared) -> Result<Self, Error> {
        Ok(Self { settings, shared })
    }
}

impl Provider for CloudApi {
    fn kind(&self) -> ProviderKind {
        ProviderKind::CloudApi
    }

    fn check(&self, _message: &OutboundMessage) -> Result<(), Refusal> {
        todo!()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        todo!()
    }

    fn send<'a>(
        &'a self,
        _id: MessageId,
        _message: &'a OutboundMessage,
    ) -> BoxFuture<'a, Result<ProviderMessageId, Failure>> {
        let _ = (&self.settings, &self.shared);
        todo!()
    }

    fn mark_read<'a>(
        &'a self,
        _message: &'a ProviderMessageId,
        _typing: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        todo!()
    }
}
