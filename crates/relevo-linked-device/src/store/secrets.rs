//! Secrets of messages, which decrypt later edits, votes and comments.

use serde::{Deserialize, Serialize};
use whatsapp_rust::async_trait;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::{
    MessageSecret, MsgSecretEntry, MsgSecretStore, merge_msg_secret_expiry, merge_msg_secret_message_ts,
};

use relevo_store::{self as store, Tx};

use super::expiry::{SECRETS, parse_row};
use super::tables::DeviceKeyspace;
use super::{BATCH_ROWS, SledBackend, StoreResult, store_error};

/// The secret of a message. The date of its row is the time at which it expires.
#[derive(Debug, Serialize, Deserialize)]
struct MessageSecretRecord {
    secret: MessageSecret,
    /// The time of the message, in Unix seconds; 0 when unknown.
    message_ts: i64,
}

/// Writes a secret. A later expiry and a known message time of the earlier row are kept.
fn merge_secret(tx: &mut Tx, keyspace: DeviceKeyspace, entry: &MsgSecretEntry) -> StoreResult<()> {
    let row = SECRETS.row(keyspace, [&entry.chat, &entry.sender, &entry.msg_id]);
    let (mut expires_at, mut message_ts) = (entry.expires_at, entry.message_ts);
    if let Some((earlier_expiry, content)) = row.get(tx)? {
        let earlier: MessageSecretRecord = store::decode(&content)?;
        expires_at = merge_msg_secret_expiry(earlier_expiry, expires_at);
        message_ts = merge_msg_secret_message_ts(earlier.message_ts, message_ts);
    }
    row.put(tx, expires_at, &store::encode(&MessageSecretRecord { secret: entry.secret, message_ts })?)
}

#[async_trait]
impl MsgSecretStore for SledBackend {
    /// Writes in batches: the history of an account has tens of thousands of secrets, and they are independent.
    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        let keyspace = self.keyspace;
        for batch in entries.chunks(BATCH_ROWS) {
            let batch = batch.to_vec();
            self.write(move |tx| batch.iter().try_for_each(|entry| merge_secret(tx, keyspace, entry)))
                .await?;
        }
        Ok(entries.len())
    }

    async fn get_msg_secret(&self, chat: &str, sender: &str, msg_id: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.get_msg_secret_with_ts(chat, sender, msg_id).await?.map(|(secret, _)| secret))
    }

    async fn get_msg_secret_with_ts(
        &self,
        chat: &str,
        sender: &str,
        msg_id: &str,
    ) -> Result<Option<(Vec<u8>, i64)>> {
        let row = SECRETS.row(self.keyspace, [chat, sender, msg_id]);
        let Some(bytes) = self.get(row.key()).await? else { return Ok(None) };
        let secret = parse_row(bytes)
            .and_then(|(_, content)| store::decode::<MessageSecretRecord>(&content))
            .map_err(store_error)?;
        Ok(Some((secret.secret.to_vec(), secret.message_ts)))
    }

    async fn delete_expired_msg_secrets(&self, cutoff_timestamp: i64) -> Result<u32> {
        // A row whose expiry equals the cutoff has expired.
        self.sweep(SECRETS, cutoff_timestamp.saturating_add(1)).await
    }
}
