//! Media files that an instance received.

use std::time::Duration;

use url::Url;

use crate::media::{self, MediaFile};
use relevo_domain::{Failure, InstanceId, ProviderMessageId};

use super::{Error, Handle};

/// Timeout for WhatsApp's answer about a file.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Handle {
    /// Asks WhatsApp for the URL of a file. The URL is valid for minutes and requires the account's token.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or WhatsApp did not return a URL in time.
    pub async fn media_url(&self, id: &InstanceId, media_id: &str) -> Result<Url, Error> {
        let client = self.find(id)?.client();
        let result = tokio::time::timeout(ANSWER_TIMEOUT, client.media(media_id)).await;
        let answer = result.unwrap_or_else(|_| Err(Failure::transient("WhatsApp took too long to answer")));
        Ok(answer.map_err(media::Error::from)?.url)
    }

    /// A received file, by WhatsApp's media id.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or the file could not be downloaded or cached.
    pub async fn media(&self, id: &InstanceId, media_id: &str) -> Result<MediaFile, Error> {
        let entry = self.find(id)?;
        Ok(self.media_cache.get(entry.number, entry.client(), media_id).await?)
    }

    /// The file of a received message, and the file name that its sender gave.
    ///
    /// # Errors
    ///
    /// Those of [`media`](Self::media); also if no such message with a file is known.
    pub async fn media_of_message(
        &self,
        id: &InstanceId,
        message: &ProviderMessageId,
    ) -> Result<(MediaFile, Option<String>), Error> {
        let location = self.media_cache.location(self.find(id)?.number, message)?;
        Ok((self.media(id, &location.media_id).await?, location.file_name))
    }
}
