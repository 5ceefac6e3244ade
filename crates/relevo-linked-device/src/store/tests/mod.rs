//! Tests of the backend, against the client library's in-memory backend as reference.

mod calls;

use std::sync::Arc;

use proptest::prelude::*;
use serde::Serialize;
use tempfile::TempDir;
use whatsapp_rust::bytes::Bytes;
use whatsapp_rust::store::traits::*;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;
use whatsapp_rust::wacore::store::{Device, InMemoryBackend};
use whatsapp_rust::wacore::time::now_secs;

use relevo_clock::Random;
use relevo_metrics::Metrics;
use relevo_store::{DataFolder, KeyValue, Options, Space, WriterExit};

use super::*;
use calls::{any_write, every_read, every_write, run_call};

const ONE: InstanceNumber = InstanceNumber::FIRST;

fn two() -> InstanceNumber {
    ONE.next().unwrap()
}

/// A store on the disk.
struct DiskStore {
    store: Store,
    closing: WriterExit,
    _folder: DataFolder,
}

impl DiskStore {
    fn open(dir: &TempDir) -> Self {
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        Self { store, closing, _folder: folder }
    }

    async fn close(self) {
        drop(self.store);
        self.closing.wait().await;
    }

    /// The backend of a client that has started.
    async fn client(&self, instance: InstanceNumber) -> SledBackend {
        let backend =
            SledBackend::new(self.store.clone(), instance, Random::system().value(), Arc::default());
        backend.exists().await.unwrap();
        backend
    }

    /// All entries of an instance, with the parts of large values.
    fn entries(&self, instance: InstanceNumber) -> Vec<KeyValue> {
        let rows = DeviceKeyspace(instance).prefix();
        let parts = Key::new(Space::Part).bytes(rows.as_slice());
        let under = |prefix: Key| self.store.range(&prefix, &prefix.clone().after_prefix());
        under(rows).chain(under(parts)).map(StoreResult::unwrap).collect()
    }

    /// Waits until all queued changes are durable.
    async fn flush(&self) {
        self.store.write(|_| Ok(())).await.unwrap();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    /// The reference is the client library's in-memory backend. Two instances of one store do not affect each other, and
    /// the deletion of one leaves no entries.
    #[test]
    fn backend_answers_like_the_reference(
        calls in prop::collection::vec((any_write(), any::<bool>()), 1..100)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskStore::open(&dir);
        block_on(async {
            let backends = [disk.client(ONE).await, disk.client(two()).await];
            let references = [InMemoryBackend::new(), InMemoryBackend::new()];
            for n in 0..2 {
                let device = Device::new();
                backends[n].save(&device).await.unwrap();
                references[n].save(&device).await.unwrap();
            }
            for (call, second) in &calls {
                let n = usize::from(*second);
                let (answer, expected) = (run_call(call, &backends[n]).await, run_call(call, &references[n]).await);
                prop_assert_eq!(answer, expected, "{:?}", call);
                disk.flush().await;
            }
            for n in 0..2 {
                for read in every_read() {
                    let (answer, expected) = (run_call(&read, &backends[n]).await, run_call(&read, &references[n]).await);
                    prop_assert_eq!(answer, expected, "{:?}", read);
                }
            }
            let second_instance = disk.entries(two());
            delete_device(&disk.store, ONE).await.unwrap();
            prop_assert_eq!(disk.entries(ONE), Vec::<KeyValue>::new());
            prop_assert!(disk.entries(two()) == second_instance);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn store_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    for call in every_write() {
        run_call(&call, &client).await;
    }
    let mut before = Vec::new();
    for read in every_read() {
        before.push(run_call(&read, &client).await);
    }
    drop(client);
    disk.close().await;
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    for (read, before) in every_read().zip(before) {
        assert_eq!(run_call(&read, &client).await, before, "{read:?}");
    }
}

#[tokio::test]
async fn batch_is_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    let before = disk.store.commits();
    let names: Vec<String> = (0..60).map(|n| format!("57300{n}@c.us.0")).collect();
    let records: Vec<(Arc<str>, Bytes)> =
        names.iter().map(|name| (name.as_str().into(), Bytes::from(vec![1; 6000]))).collect();
    client.put_sessions_batch(&records).await.unwrap();
    client.put_sender_keys_batch(&records).await.unwrap();
    let identities: Vec<(Arc<str>, [u8; 32])> =
        names.iter().map(|name| (name.as_str().into(), [2; 32])).collect();
    client.put_identities_batch(&identities).await.unwrap();
    let keys: Vec<_> = (1..=812).map(|id| (id, Bytes::from_static(b"key"))).collect();
    client.store_prekeys_batch(&keys, false).await.unwrap();
    let statuses: Vec<_> = names.iter().map(|name| (name.as_str(), true)).collect();
    client.set_sender_key_status("1@g.us", &statuses).await.unwrap();
    client
        .delete_sender_key_device_rows(&names.iter().map(String::as_str).collect::<Vec<_>>())
        .await
        .unwrap();
    let macs: Vec<_> =
        (0..60).map(|n| AppStateMutationMAC { index_mac: vec![n; 32], value_mac: vec![n; 32] }).collect();
    client.put_mutation_macs("regular", 1, &macs).await.unwrap();
    client.clear_mutation_macs("regular").await.unwrap();
    let rows: Vec<_> = names
        .iter()
        .map(|id| PendingInboundRow { chat: "1@g.us", sender: "2@lid", id, message: &[5; 5000] })
        .collect();
    client.store_pending_inbound_batch(&rows).await.unwrap();
    assert_eq!(disk.store.commits() - before, 9);
    assert_eq!(client.get_max_prekey_id().await.unwrap(), 812);
}

#[tokio::test]
async fn only_the_newest_client_writes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let old = disk.client(ONE).await;
    old.put_session("1@lid.0", b"old").await.unwrap();
    old.store_pending_inbound("1@lid", "1@lid", "A", b"old").await.unwrap();
    let new = disk.client(ONE).await;
    new.put_session("1@lid.0", b"new").await.unwrap();
    let entries = disk.entries(ONE);
    assert!(old.put_session("1@lid.0", b"older").await.is_err());
    assert!(old.delete_session("1@lid.0").await.is_err());
    old.delete_pending_inbound("1@lid", "1@lid", "A").await.unwrap();
    disk.flush().await;
    assert!(disk.entries(ONE) == entries);
    new.put_session("1@lid.0", b"newer").await.unwrap();

    delete_device(&disk.store, ONE).await.unwrap();
    assert!(new.put_session("1@lid.0", b"late").await.is_err());
    assert!(new.save(&Device::new()).await.is_err());
    assert_eq!(disk.entries(ONE), []);
}

#[tokio::test]
async fn leftovers_of_a_deletion_are_removed_before_a_new_device() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    client.create().await.unwrap();
    client.put_session("1@lid.0", &[1; 9000]).await.unwrap();
    let (start, end) = (DeviceKeyspace(ONE).prefix(), DeviceKeyspace(ONE).prefix().after_prefix());
    disk.store.write(move |tx| delete_some(tx, &start, &end, 2)).await.unwrap();
    assert!(client.load().await.unwrap().is_none());
    assert!(client.get_session("1@lid.0").await.unwrap().is_some());

    let client = disk.client(ONE).await;
    assert!(!client.exists().await.unwrap());
    client.create().await.unwrap();
    assert!(client.get_session("1@lid.0").await.unwrap().is_none());
    assert!(client.exists().await.unwrap());
    let created = client.load().await.unwrap().unwrap();
    client.create().await.unwrap();
    assert_eq!(client.load().await.unwrap().unwrap().registration_id, created.registration_id);
}

#[tokio::test]
async fn device_record_round_trips_and_ignores_unknown_fields() {
    #[derive(Serialize)]
    struct ExtendedDevice<'a> {
        #[serde(flatten)]
        device: &'a Device,
        more: u32,
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    let mut device = Device::new();
    device.pn = Some("573000000001:7@s.whatsapp.net".parse().unwrap());
    device.lid = Some("99:7@lid".parse().unwrap());
    device.edge_routing_info = Some(vec![8; 5000]);
    device.account = Some(Arc::default());
    client.save(&device).await.unwrap();
    let json = |device: &Device| serde_json::to_string(device).unwrap();
    let loaded = client.load().await.unwrap().unwrap();
    assert_eq!(json(&loaded), json(&device));
    // The record does not contain the device properties, which a phone reads when it links this device.
    assert!(loaded.device_props.history_sync_config.is_set());

    client
        .put_record(
            DeviceKeyspace(ONE).table_key(Table::Device),
            &ExtendedDevice { device: &device, more: 1 },
        )
        .await
        .unwrap();
    assert_eq!(json(&client.load().await.unwrap().unwrap()), json(&device));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_value_is_read_consistently_during_rewrites() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = Arc::new(disk.client(ONE).await);
    client.put_session("1@lid.0", &[0; 20_000]).await.unwrap();
    let writer = Arc::clone(&client);
    let writing = tokio::spawn(async move {
        for byte in 1..=100 {
            writer.put_session("1@lid.0", &[byte; 20_000]).await.unwrap();
        }
    });
    while !writing.is_finished() {
        let session = client.get_session("1@lid.0").await.unwrap().unwrap();
        assert!(session.len() == 20_000 && session.iter().all(|byte| *byte == session[0]));
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn sweep_deletes_all_expired_rows() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    let kept = disk.entries(ONE);
    let names: Vec<String> = (0..1200).map(|n| n.to_string()).collect();
    let rows: Vec<_> = names
        .iter()
        .map(|id| PendingInboundRow { chat: "1@lid", sender: "1@lid", id, message: b"m" })
        .collect();
    client.store_pending_inbound_batch(&rows).await.unwrap();
    client.save_base_key("1@lid.0", "A", b"key").await.unwrap();
    assert_eq!(client.delete_expired_pending_inbound(now_secs() - 1000).await.unwrap(), 0);
    assert!(client.has_same_base_key("1@lid.0", "A", b"key").await.unwrap());
    assert_eq!(client.delete_expired_pending_inbound(now_secs() + 1000).await.unwrap(), 1200);
    assert!(!client.has_same_base_key("1@lid.0", "A", b"key").await.unwrap());

    let keyspace = client.keyspace;
    let tokens = move |tx: &mut Tx| {
        (0..1200).try_for_each(|n| {
            tc_tokens::record_sent(tx, keyspace, n.to_string(), if n % 400 == 0 { 9 } else { 1 })
        })
    };
    client.write(tokens).await.unwrap();
    assert_eq!(client.delete_expired_tc_tokens(5, 5).await.unwrap(), 1197);
    assert_eq!(client.get_all_tc_token_jids().await.unwrap().len(), 3);
    assert_eq!(client.delete_expired_tc_tokens(10, 10).await.unwrap(), 3);
    assert!(disk.entries(ONE) == kept);
}

#[tokio::test]
async fn sent_message_is_readable_until_swept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    client.store_sent_message("1@lid", "A", b"hola").await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.take_sent_message("1@lid", "A").await.unwrap().as_deref(), Some(&b"hola"[..]));
    }
    assert_eq!(client.delete_expired_sent_messages(now_secs() + 1000).await.unwrap(), 1);
    assert_eq!(client.take_sent_message("1@lid", "A").await.unwrap(), None);
}

#[tokio::test]
async fn lid_that_moves_keeps_the_newer_mapping_of_its_old_phone() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&dir);
    let client = disk.client(ONE).await;
    let mapping = |lid: &str, phone: &str| LidPnMappingEntry {
        lid: lid.to_owned(),
        phone_number: phone.to_owned(),
        created_at: 1,
        updated_at: 1,
        learning_source: "usync".to_owned(),
    };
    let mappings = [mapping("old", "57300"), mapping("new", "57300"), mapping("old", "57311")];
    client.put_lid_mappings(&mappings).await.unwrap();
    for (phone, lid) in [("57300", "new"), ("57311", "old")] {
        assert_eq!(client.get_pn_mapping(phone).await.unwrap().unwrap().lid, lid);
    }
}
