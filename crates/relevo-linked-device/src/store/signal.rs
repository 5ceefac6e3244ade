//! The Signal state of a device: identities, sessions, prekeys and sender keys.

use std::sync::Arc;

use whatsapp_rust::async_trait;
use whatsapp_rust::bytes::Bytes;
use whatsapp_rust::wacore::store::error::{Result, StoreError};
use whatsapp_rust::wacore::store::traits::SignalStore;

use super::tables::Table;
use super::{SledBackend, store_error};

/// The id at the end of a key.
fn last_id(key: &[u8]) -> u32 {
    key.last_chunk().map_or(0, |id| u32::from_be_bytes(*id))
}

#[async_trait]
impl SignalStore for SledBackend {
    async fn put_identity(&self, address: &str, key: [u8; 32]) -> Result<()> {
        self.put(self.keyspace.address_key(Table::Identity, address), key.to_vec()).await
    }

    async fn put_identities_batch(&self, identities: &[(Arc<str>, [u8; 32])]) -> Result<()> {
        let values = identities
            .iter()
            .map(|(address, key)| (self.keyspace.address_key(Table::Identity, address), *key));
        self.put_all(values.collect()).await
    }

    async fn load_identity(&self, address: &str) -> Result<Option<[u8; 32]>> {
        let key = self.get(self.keyspace.address_key(Table::Identity, address)).await?;
        let invalid = |_| StoreError::Validation("the identity key does not have 32 bytes".to_owned());
        key.map(|bytes| bytes.try_into().map_err(invalid)).transpose()
    }

    async fn delete_identity(&self, address: &str) -> Result<()> {
        self.delete(self.keyspace.address_key(Table::Identity, address)).await
    }

    async fn get_session(&self, address: &str) -> Result<Option<Bytes>> {
        Ok(self.get(self.keyspace.address_key(Table::Session, address)).await?.map(Bytes::from))
    }

    async fn put_session(&self, address: &str, session: &[u8]) -> Result<()> {
        self.pending_decrypts.wait_until_complete().await;
        self.put(self.keyspace.address_key(Table::Session, address), session.to_vec()).await
    }

    async fn put_sessions_batch(&self, sessions: &[(Arc<str>, Bytes)]) -> Result<()> {
        self.pending_decrypts.wait_until_complete().await;
        let values = sessions.iter().map(|(address, session)| {
            let key = self.keyspace.address_key(Table::Session, address);
            (key, session.clone())
        });
        self.put_all(values.collect()).await
    }

    async fn delete_session(&self, address: &str) -> Result<()> {
        self.delete(self.keyspace.address_key(Table::Session, address)).await
    }

    async fn has_signal_state_for_user(&self, user: &str) -> Result<bool> {
        let sessions = self.contains_prefix(&self.keyspace.name_key(Table::Session, user))?;
        Ok(sessions || self.contains_prefix(&self.keyspace.name_key(Table::Identity, user))?)
    }

    async fn store_prekey(&self, id: u32, record: &[u8], _uploaded: bool) -> Result<()> {
        self.put(self.keyspace.id_key(Table::PreKey, id), record.to_vec()).await
    }

    async fn store_prekeys_batch(&self, keys: &[(u32, Bytes)], _uploaded: bool) -> Result<()> {
        let values =
            keys.iter().map(|(id, record)| (self.keyspace.id_key(Table::PreKey, *id), record.clone()));
        self.put_all(values.collect()).await
    }

    async fn load_prekey(&self, id: u32) -> Result<Option<Bytes>> {
        Ok(self.get(self.keyspace.id_key(Table::PreKey, id)).await?.map(Bytes::from))
    }

    /// Stores nothing: the backend has no query for uploaded keys, and the device record holds two watermarks instead.
    async fn mark_prekeys_uploaded(&self, _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    async fn remove_prekey(&self, id: u32) -> Result<()> {
        self.delete(self.keyspace.id_key(Table::PreKey, id)).await
    }

    async fn get_max_prekey_id(&self) -> Result<u32> {
        let prefix = self.keyspace.table_key(Table::PreKey);
        let last = self.store.range(&prefix, &prefix.clone().after_prefix()).next_back();
        Ok(last.transpose().map_err(store_error)?.map_or(0, |(key, _)| last_id(&key)))
    }

    async fn store_signed_prekey(&self, id: u32, record: &[u8]) -> Result<()> {
        self.put(self.keyspace.id_key(Table::SignedPreKey, id), record.to_vec()).await
    }

    async fn load_signed_prekey(&self, id: u32) -> Result<Option<Vec<u8>>> {
        self.get(self.keyspace.id_key(Table::SignedPreKey, id)).await
    }

    async fn load_all_signed_prekeys(&self) -> Result<Vec<(u32, Vec<u8>)>> {
        let prefix = self.keyspace.table_key(Table::SignedPreKey);
        self.list(prefix, |key, record| Ok((last_id(key), record.to_vec()))).await
    }

    async fn remove_signed_prekey(&self, id: u32) -> Result<()> {
        self.delete(self.keyspace.id_key(Table::SignedPreKey, id)).await
    }

    async fn put_sender_key(&self, address: &str, record: &[u8]) -> Result<()> {
        self.pending_decrypts.wait_until_complete().await;
        self.put(self.keyspace.name_key(Table::SenderKey, address), record.to_vec()).await
    }

    async fn put_sender_keys_batch(&self, sender_keys: &[(Arc<str>, Bytes)]) -> Result<()> {
        self.pending_decrypts.wait_until_complete().await;
        let values = sender_keys.iter().map(|(address, record)| {
            let key = self.keyspace.name_key(Table::SenderKey, address);
            (key, record.clone())
        });
        self.put_all(values.collect()).await
    }

    async fn get_sender_key(&self, address: &str) -> Result<Option<Vec<u8>>> {
        self.get(self.keyspace.name_key(Table::SenderKey, address)).await
    }

    async fn delete_sender_key(&self, address: &str) -> Result<()> {
        self.delete(self.keyspace.name_key(Table::SenderKey, address)).await
    }
}
