//! Files that users sent to an instance.

use std::time::Duration;

use url::Url;

use crate::media::{self, MediaFile};
use relevo_domain::{Failure, InstanceId, ProviderMessageId};

use super::{Error, Handle};

/// Longest wait for WhatsApp's answer about a file.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Handle {
    /// Asks WhatsApp where it has a file: an address that is good for minutes, and only for who shows the
    /// account's token.
    pub async fn media_url(&self, id: &InstanceId, media_id: &str) -> Result<Url, Error> {
        let known = self.find(id)?;
        let client = known.client();
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, client.media(media_id)).await;
        let answer = asked.unwrap_or_else(|_| Err(Failure::transient("WhatsApp took too long to answer")));
        Ok(answer.map_err(media::Error::from)?.url)
    }

    /// A file that a user sent, by WhatsApp's id of it.
    pub async fn media(&self, id: &InstanceId, media_id: &str) -> Result<MediaFile, Error> {
        let known = self.find(id)?;
        Ok(self.media_cache.get(known.number, known.client(), media_id).await?)
    }

    /// The file of a received message, and the name that its sender gave it.
    pub async fn media_of_message(
        &self,
        id: &InstanceId,
        message: &ProviderMessageId,
    ) -> Result<(MediaFile, Option<String>), Error> {
        let note = self.media_cache.location(self.find(id)?.number, message)?;
        Ok((self.media(id, &note.media_id).await?, note.file_name))
    }
}
