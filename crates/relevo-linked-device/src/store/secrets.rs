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

/// The secret of a message. Its date is when it is not needed any more.
#[derive(Debug, Serialize, Deserialize)]
struct MessageSecretRecord {
    secret: MessageSecret,
    /// When the message was written, in Unix seconds; 0 where that is unknown.
    message_ts: i64,
}

/// Writes a secret; a later end and a known time of the one before it stay.
fn merge_secret(tx: &mut Tx, place: DeviceKeyspace, entry: &MsgSecretEntry) -> StoreResult<()> {
    let row = SECRETS.row(place, [&entry.chat, &entry.sender, &entry.msg_id]);
    let (mut end, mut message_ts) = (entry.expires_at, entry.message_ts);
    if let Some((end_before, content)) = row.get(tx)? {
        let before: MessageSecretRecord = store::decode(&content)?;
        end = merge_msg_secret_expiry(end_before, end);
        message_ts = merge_msg_secret_message_ts(before.message_ts, message_ts);
    }
    row.put(tx, end, &store::encode(&MessageSecretRecord { secret: entry.secret, message_ts })?)
}

#[async_trait]
impl MsgSecretStore for SledBackend {
    /// In steps: the history of an account brings tens of thousands, and no two depend on each other.
    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        let place = self.keyspace;
        for step in entries.chunks(BATCH_ROWS) {
            let step = step.to_vec();
            self.write(move |tx| step.iter().try_for_each(|entry| merge_secret(tx, place, entry))).await?;
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
        // What ends now has ended.
        self.sweep(SECRETS, cutoff_timestamp.saturating_add(1)).await
    }
}
