//! The record of the device itself: its identity keys and its account.

use std::sync::Arc;

use whatsapp_rust::async_trait;
use whatsapp_rust::wacore::stats::StorageResourceReport;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::store::device::DEVICE_PROPS;
use whatsapp_rust::wacore::store::error::Result;
use whatsapp_rust::wacore::store::traits::DeviceStore;

use super::tables::Table;
use super::{SledBackend, delete_between, store_error};

#[async_trait]
impl DeviceStore for SledBackend {
    async fn save(&self, device: &Device) -> Result<()> {
        self.put_record(self.keyspace.table_key(Table::Device), device).await
    }

    async fn load(&self) -> Result<Option<Device>> {
        let mut device: Option<Device> = self.get_record(self.keyspace.table_key(Table::Device)).await?;
        if let Some(device) = &mut device {
            // The record does not contain the device properties and decodes to empty ones; these are the defaults of a
            // new device.
            device.device_props = Arc::new(DEVICE_PROPS.clone());
        }
        Ok(device)
    }

    /// Also makes this client the holder of the keys: it is the first call of a client, before it reads any key.
    async fn exists(&self) -> Result<bool> {
        let (keyspace, this_client) = (self.keyspace, self.holder);
        let acquire = self.store.write(move |tx| {
            tx.put(keyspace.table_key(Table::Holder), this_client.to_vec())?;
            tx.contains(&keyspace.table_key(Table::Device))
        });
        acquire.await.map_err(store_error)
    }

    async fn create(&self) -> Result<i32> {
        let key = self.keyspace.table_key(Table::Device);
        if self.store.get(&key).map_err(store_error)?.is_none() {
            // Data that an interrupted deletion of an earlier device left must not be mixed with the new keys.
            let end = self.keyspace.prefix().after_prefix();
            delete_between(&self.store, key.clone(), end).await.map_err(store_error)?;
            self.put_record(key, &Device::new()).await?;
        }
        Ok(self.keyspace.0.get().cast_signed())
    }

    async fn resource_report(&self) -> StorageResourceReport {
        StorageResourceReport { memory_bytes: Some(0), ..StorageResourceReport::default() }
    }
}
