//! The protocol state of a device: sender key distribution, LID mappings, device lists, groups, tokens, and messages
//! that may be requested again or are not yet acknowledged.

use whatsapp_rust::async_trait;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::{
    DeviceListRecord, LidPnMappingEntry, PendingInboundKey, PendingInboundRow, ProtocolStore, TcTokenEntry,
};
use whatsapp_rust::wacore::time::now_secs;

use relevo_store as store;

use super::expiry::{BASE_KEYS, PENDING, SENT, parse_row};
use super::tables::{Table, digest};
use super::{SledBackend, delete_some, lids, sender_keys, store_error, tc_tokens};

/// Dates are taken from the client's clock, [`now_secs`], because the client computes the cutoffs of sweeps from it.
#[async_trait]
impl ProtocolStore for SledBackend {
    async fn get_sender_key_devices(&self, group_jid: &str) -> Result<Vec<(String, bool)>> {
        self.list(sender_keys::group_key(self.keyspace, group_jid), |_, status| store::decode(status)).await
    }

    async fn set_sender_key_status(&self, group_jid: &str, entries: &[(&str, bool)]) -> Result<()> {
        let (keyspace, group) = (self.keyspace, group_jid.to_owned());
        let statuses: Vec<_> =
            entries.iter().map(|(device, has_key)| ((*device).to_owned(), *has_key)).collect();
        self.write(move |tx| sender_keys::set_statuses(tx, keyspace, &group, &statuses)).await
    }

    async fn clear_sender_key_devices(&self, group_jid: &str) -> Result<()> {
        let (keyspace, group) = (self.keyspace, group_jid.to_owned());
        self.write(move |tx| sender_keys::clear_group(tx, keyspace, &group)).await
    }

    async fn delete_sender_key_device_rows(&self, device_jids: &[&str]) -> Result<()> {
        let keyspace = self.keyspace;
        let devices: Vec<_> = device_jids.iter().map(|device| digest([device.as_bytes()])).collect();
        self.write(move |tx| sender_keys::delete_devices(tx, keyspace, &devices)).await
    }

    async fn clear_all_sender_key_devices(&self) -> Result<()> {
        let tables = [Table::GroupDevice, Table::DeviceGroup].map(|table| self.keyspace.table_key(table));
        self.write(move |tx| {
            let clear = |table| delete_some(tx, &table, &table.clone().after_prefix(), usize::MAX);
            tables.into_iter().try_for_each(clear)
        })
        .await
    }

    async fn get_lid_mapping(&self, lid: &str) -> Result<Option<LidPnMappingEntry>> {
        self.get_record(lids::key(self.keyspace, lid)).await
    }

    async fn get_pn_mapping(&self, phone: &str) -> Result<Option<LidPnMappingEntry>> {
        let Some(lid) = self.get(lids::phone_key(self.keyspace, phone)).await? else { return Ok(None) };
        self.get_lid_mapping(&String::from_utf8_lossy(&lid)).await
    }

    async fn put_lid_mapping(&self, entry: &LidPnMappingEntry) -> Result<()> {
        self.put_lid_mappings(std::slice::from_ref(entry)).await
    }

    async fn put_lid_mappings(&self, entries: &[LidPnMappingEntry]) -> Result<()> {
        let (keyspace, entries) = (self.keyspace, entries.to_vec());
        self.write(move |tx| entries.iter().try_for_each(|entry| lids::put(tx, keyspace, entry))).await
    }

    async fn get_all_lid_mappings(&self) -> Result<Vec<LidPnMappingEntry>> {
        self.list(self.keyspace.table_key(Table::Lid), |_, mapping| store::decode(mapping)).await
    }

    async fn save_base_key(&self, address: &str, message_id: &str, base_key: &[u8]) -> Result<()> {
        let row = BASE_KEYS.row(self.keyspace, [address, message_id]);
        let (now, base_key) = (now_secs(), base_key.to_vec());
        self.write(move |tx| row.put(tx, now, &base_key)).await
    }

    async fn has_same_base_key(
        &self,
        address: &str,
        message_id: &str,
        current_base_key: &[u8],
    ) -> Result<bool> {
        let row = BASE_KEYS.row(self.keyspace, [address, message_id]);
        let row = self.get(row.key()).await?.map(parse_row).transpose().map_err(store_error)?;
        Ok(row.is_some_and(|(_, base_key)| base_key == current_base_key))
    }

    async fn delete_base_key(&self, address: &str, message_id: &str) -> Result<()> {
        let row = BASE_KEYS.row(self.keyspace, [address, message_id]);
        self.write(move |tx| row.delete(tx)).await
    }

    async fn update_device_list(&self, record: DeviceListRecord) -> Result<()> {
        self.update_device_lists(vec![record]).await
    }

    async fn update_device_lists(&self, records: Vec<DeviceListRecord>) -> Result<()> {
        let values = records.iter().map(|record| {
            let key = self.keyspace.name_key(Table::DeviceList, &record.user);
            Ok((key, store::encode(record).map_err(store_error)?))
        });
        self.put_all(values.collect::<Result<_>>()?).await
    }

    async fn get_devices(&self, user: &str) -> Result<Option<DeviceListRecord>> {
        self.get_record(self.keyspace.name_key(Table::DeviceList, user)).await
    }

    async fn delete_devices(&self, user: &str) -> Result<()> {
        self.delete(self.keyspace.name_key(Table::DeviceList, user)).await
    }

    async fn get_group_metadata(&self, group_jid: &str) -> Result<Option<Vec<u8>>> {
        self.get(self.keyspace.name_key(Table::Group, group_jid)).await
    }

    async fn put_group_metadata(&self, group_jid: &str, blob: &[u8]) -> Result<()> {
        self.put(self.keyspace.name_key(Table::Group, group_jid), blob.to_vec()).await
    }

    async fn delete_group_metadata(&self, group_jid: &str) -> Result<()> {
        self.delete(self.keyspace.name_key(Table::Group, group_jid)).await
    }

    async fn get_tc_token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        let row: Option<tc_tokens::TcTokenRow> = self.get_record(tc_tokens::key(self.keyspace, jid)).await?;
        Ok(row.map(|row| row.entry))
    }

    async fn put_tc_token(&self, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        let (keyspace, row) =
            (self.keyspace, tc_tokens::TcTokenRow { jid: jid.to_owned(), entry: entry.clone() });
        self.write(move |tx| tc_tokens::put(tx, keyspace, &row)).await
    }

    async fn delete_tc_token(&self, jid: &str) -> Result<()> {
        self.delete(tc_tokens::key(self.keyspace, jid)).await
    }

    async fn get_all_tc_token_jids(&self) -> Result<Vec<String>> {
        let jid = |_: &[u8], row: &[u8]| store::decode::<tc_tokens::TcTokenRow>(row).map(|row| row.jid);
        self.list(self.keyspace.table_key(Table::TcToken), jid).await
    }

    async fn delete_expired_tc_tokens(&self, token_cutoff: i64, sender_cutoff: i64) -> Result<u32> {
        let keyspace = self.keyspace;
        let (mut swept, mut next) = (0, Some(keyspace.table_key(Table::TcToken)));
        while let Some(from) = next.take() {
            let sweep =
                move |tx: &mut store::Tx| tc_tokens::sweep(tx, keyspace, &from, token_cutoff, sender_cutoff);
            let step = self.write(sweep).await?;
            swept += step.rows;
            next = step.next;
        }
        Ok(swept)
    }

    async fn touch_tc_token_sender_timestamp(&self, jid: &str, sender_timestamp: i64) -> Result<()> {
        let (keyspace, jid) = (self.keyspace, jid.to_owned());
        self.write(move |tx| tc_tokens::record_sent(tx, keyspace, jid, sender_timestamp)).await
    }

    async fn store_received_tc_token(&self, jid: &str, token: &[u8], token_timestamp: i64) -> Result<()> {
        let (keyspace, jid, token) = (self.keyspace, jid.to_owned(), token.to_vec());
        self.write(move |tx| tc_tokens::record_received(tx, keyspace, jid, token, token_timestamp)).await
    }

    async fn store_sent_message(&self, chat_jid: &str, message_id: &str, payload: &[u8]) -> Result<()> {
        let row = SENT.row(self.keyspace, [chat_jid, message_id]);
        let (now, payload) = (now_secs(), payload.to_vec());
        self.write(move |tx| row.put(tx, now, &payload)).await
    }

    /// Does not delete the message: a recipient requests it again if a crash prevented the answer. The sweep deletes it.
    async fn take_sent_message(&self, chat_jid: &str, message_id: &str) -> Result<Option<Vec<u8>>> {
        let row = SENT.row(self.keyspace, [chat_jid, message_id]);
        let row = self.get(row.key()).await?.map(parse_row).transpose().map_err(store_error)?;
        Ok(row.map(|(_, payload)| payload))
    }

    async fn delete_expired_sent_messages(&self, cutoff_timestamp: i64) -> Result<u32> {
        self.sweep(SENT, cutoff_timestamp).await
    }

    async fn store_pending_inbound(&self, chat: &str, sender: &str, id: &str, message: &[u8]) -> Result<()> {
        self.store_pending_inbound_batch(&[PendingInboundRow { chat, sender, id, message }]).await
    }

    async fn get_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Vec<u8>>> {
        // The client asks only for messages that were already decrypted.
        self.pending_decrypts.complete(id);
        let row = PENDING.row(self.keyspace, [chat, sender, id]);
        let row = self.get(row.key()).await?.map(parse_row).transpose().map_err(store_error)?;
        Ok(row.map(|(_, message)| message))
    }

    async fn delete_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<()> {
        self.delete_pending_inbound_batch(&[PendingInboundKey { chat, sender, id }]).await
    }

    async fn delete_expired_pending_inbound(&self, cutoff_timestamp: i64) -> Result<u32> {
        // The client has no sweep for base keys. Recipients request a message again within minutes, and this cutoff is a
        // week ago.
        self.sweep(BASE_KEYS, cutoff_timestamp).await?;
        self.sweep(PENDING, cutoff_timestamp).await
    }

    async fn store_pending_inbound_batch(&self, rows: &[PendingInboundRow<'_>]) -> Result<()> {
        let (keyspace, now) = (self.keyspace, now_secs());
        let pending = rows.iter().map(|row| {
            let message = row.message.to_vec();
            (PENDING.row(keyspace, [row.chat, row.sender, row.id]), message)
        });
        let pending: Vec<_> = pending.collect();
        let put =
            move |tx: &mut store::Tx| pending.iter().try_for_each(|(row, message)| row.put(tx, now, message));
        self.write_with_hook(put, || rows.iter().for_each(|row| self.pending_decrypts.complete(row.id))).await
    }

    /// The commit is not awaited: see the documentation of the parent module.
    async fn delete_pending_inbound_batch(&self, keys: &[PendingInboundKey<'_>]) -> Result<()> {
        let rows: Vec<_> =
            keys.iter().map(|key| PENDING.row(self.keyspace, [key.chat, key.sender, key.id])).collect();
        self.write_detached(move |tx| rows.into_iter().try_for_each(|row| row.delete(tx))).await;
        Ok(())
    }
}
