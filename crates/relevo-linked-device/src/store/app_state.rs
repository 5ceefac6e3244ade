//! The app state of the account: sync keys, versions of collections, and MACs of mutations.

use whatsapp_rust::async_trait;
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;
use whatsapp_rust::wacore::store::error::{Result, StoreError};
use whatsapp_rust::wacore::store::traits::{AppStateSyncKey, AppSyncStore};

use relevo_store::{self as store, Key};

use super::tables::{Table, digest};
use super::{SledBackend, delete_some, store_error};

impl SledBackend {
    fn mac_key(&self, collection: &str, index_mac: &[u8]) -> Key {
        self.keyspace.name_key(Table::MutationMac, collection).bytes(&digest([index_mac]))
    }
}

#[async_trait]
impl AppSyncStore for SledBackend {
    async fn get_sync_key(&self, key_id: &[u8]) -> Result<Option<AppStateSyncKey>> {
        self.get_record(self.keyspace.table_key(Table::SyncKey).bytes(&digest([key_id]))).await
    }

    async fn set_sync_key(&self, key_id: &[u8], key: AppStateSyncKey) -> Result<()> {
        let row = self.keyspace.table_key(Table::SyncKey).bytes(&digest([key_id]));
        let record = store::encode(&key).map_err(store_error)?;
        self.put_all(vec![(row, record), (self.keyspace.table_key(Table::LatestSyncKey), key_id.to_vec())])
            .await
    }

    async fn get_version(&self, name: &str) -> Result<HashState> {
        match self.get_record(self.keyspace.name_key(Table::Version, name)).await {
            Ok(version) => Ok(version.unwrap_or_default()),
            Err(StoreError::Serialization(cause)) => {
                // With the default state the client syncs the collection from its beginning; an error would stop the
                // sync of this collection for good.
                tracing::warn!(%cause, collection = name, "app state unreadable; collection synced from the beginning");
                Ok(HashState::default())
            }
            Err(cause) => Err(cause),
        }
    }

    async fn set_version(&self, name: &str, state: HashState) -> Result<()> {
        self.put_record(self.keyspace.name_key(Table::Version, name), &state).await
    }

    async fn put_mutation_macs(
        &self,
        name: &str,
        _version: u64,
        mutations: &[AppStateMutationMAC],
    ) -> Result<()> {
        let values = mutations.iter().map(|mutation| {
            let key = self.mac_key(name, &mutation.index_mac);
            (key, mutation.value_mac.clone())
        });
        self.put_all(values.collect()).await
    }

    async fn get_mutation_mac(&self, name: &str, index_mac: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get(self.mac_key(name, index_mac)).await
    }

    async fn delete_mutation_macs(&self, name: &str, index_macs: &[Vec<u8>]) -> Result<()> {
        let keys: Vec<_> = index_macs.iter().map(|index_mac| self.mac_key(name, index_mac)).collect();
        self.write(move |tx| keys.into_iter().try_for_each(|key| tx.delete(key))).await
    }

    async fn clear_mutation_macs(&self, name: &str) -> Result<()> {
        let prefix = self.keyspace.name_key(Table::MutationMac, name);
        self.write(move |tx| delete_some(tx, &prefix, &prefix.clone().after_prefix(), usize::MAX)).await
    }

    async fn get_latest_sync_key_id(&self) -> Result<Option<Vec<u8>>> {
        self.get(self.keyspace.table_key(Table::LatestSyncKey)).await
    }
}
