//! Generated calls of all methods of a backend, with arguments from small sets so that calls refer to the same rows.

use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use whatsapp_rust::bytes::Bytes;
use whatsapp_rust::store::traits::{
    AppStateSyncKey, Backend, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry,
    PendingInboundKey, PendingInboundRow, TcTokenEntry,
};
use whatsapp_rust::wacore::appstate::hash::HashState;
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;
use whatsapp_rust::wacore::store::Device;
use whatsapp_rust::wacore::time::now_secs;

#[derive(Debug, Clone)]
pub struct BackendCall {
    method: &'static str,
    who: usize,
    what: usize,
    /// Size of the value in bytes, if the method has one.
    size: usize,
    number: i64,
}

const SIZES: [usize; 5] = [0, 7, 4094, 4095, 20_000];
const NUMBERS: [i64; 6] = [-1000, -1, 0, 3, 10, 1000];

const ADDRESSES: [&str; 4] = ["573001@c.us.0", "573001:2@c.us.0", "5730011@c.us.0", "99@lid.0"];
const USERS: [&str; 4] = ["573001", "5730011", "99", "5730"];
const CHATS: [&str; 4] = ["1@g.us", "2@g.us", "573001@s.whatsapp.net", "99@lid"];
const IDS: [&str; 4] = ["A", "B", "AB", ""];
/// No LID moves away from a phone that another LID has taken over: in that case the reference deletes the newer mapping.
const MAPPINGS: [(&str, &str); 4] = [("a", "1"), ("a", "2"), ("b", "3"), ("c", "3")];

static DEVICE: LazyLock<Device> = LazyLock::new(Device::new);

/// All methods that write.
const WRITES: &str = "
    put_identity put_identities_batch delete_identity put_session put_sessions_batch delete_session store_prekey
    store_prekeys_batch mark_prekeys_uploaded remove_prekey store_signed_prekey remove_signed_prekey
    put_sender_key put_sender_keys_batch delete_sender_key set_sync_key set_version put_mutation_macs
    delete_mutation_macs clear_mutation_macs set_sender_key_status clear_sender_key_devices
    delete_sender_key_device_rows clear_all_sender_key_devices put_lid_mapping put_lid_mappings save_base_key
    delete_base_key update_device_list update_device_lists delete_devices put_group_metadata
    delete_group_metadata put_tc_token delete_tc_token delete_expired_tc_tokens touch_tc_token_sender_timestamp
    store_received_tc_token store_sent_message delete_expired_sent_messages
    store_pending_inbound delete_pending_inbound delete_expired_pending_inbound put_msg_secrets save
    store_pending_inbound_batch delete_pending_inbound_batch delete_expired_msg_secrets put_msg_secret create
";

/// All methods that only read.
const READS: &str = "
    load_identity get_session has_session has_signal_state_for_user load_prekey load_prekeys_batch
    get_max_prekey_id load_signed_prekey load_all_signed_prekeys get_sender_key get_sync_key get_version
    get_mutation_mac get_mutation_macs get_latest_sync_key_id get_sender_key_devices get_lid_mapping
    get_pn_mapping get_all_lid_mappings has_same_base_key get_devices get_group_metadata get_tc_token
    get_all_tc_token_jids get_pending_inbound get_msg_secret_with_ts load
";

/// A random call of a writing method.
pub fn any_write() -> impl Strategy<Value = BackendCall> {
    let method = prop::sample::select(WRITES.split_whitespace().collect::<Vec<_>>());
    let (size, number) = (prop::sample::select(SIZES.to_vec()), prop::sample::select(NUMBERS.to_vec()));
    let arguments = (method, 0..4_usize, 0..4_usize, size, number);
    arguments.prop_map(|(method, who, what, size, number)| BackendCall { method, who, what, size, number })
}

/// One call of each method that stores a value.
pub fn every_write() -> impl Iterator<Item = BackendCall> {
    let stores = |method: &&str| {
        ["put", "set", "store", "update", "save", "touch"].iter().any(|start| method.starts_with(start))
    };
    let calls = WRITES.split_whitespace().filter(stores).zip(0..);
    calls.map(|(method, n)| BackendCall { method, who: n % 4, what: n % 3, size: 20_000, number: 1000 })
}

/// All reads, with all arguments.
pub fn every_read() -> impl Iterator<Item = BackendCall> {
    let arguments = (0..4).flat_map(|who| (0..4).map(move |what| (who, what)));
    arguments.flat_map(|(who, what)| {
        READS.split_whitespace().map(move |method| BackendCall { method, who, what, size: 7, number: 0 })
    })
}

/// The elements in sorted order: backends return lists in any order.
fn sorted<T: Debug>(list: impl IntoIterator<Item = T>) -> String {
    let mut lines: Vec<_> = list.into_iter().map(|item| format!("{item:?}")).collect();
    lines.sort();
    lines.join("\n")
}

/// Makes a call and returns its answer as text.
pub async fn run_call(call: &BackendCall, to: &dyn Backend) -> String {
    let next = (call.who + 1) % 4;
    let value = vec![u8::try_from(call.what * 16 + call.who).unwrap(); call.size];
    match call.method {
        "create" => to.create().await.map(|_| String::new()).unwrap(),
        "save" => debug_result(to.save(&device(call)).await),
        "load" => match to.load().await.unwrap() {
            Some(device) => {
                format!("{} {:?}", serde_json::to_string(&device).unwrap(), device.device_props.os)
            }
            None => "none".to_owned(),
        },
        _ => {
            let answers = [
                signal(call, to, &value, next).await,
                app_state(call, to, &value).await,
                groups_and_devices(call, to, &value, next).await,
                tokens(call, to, &value).await,
                messages(call, to, &value, next).await,
            ];
            let answer = answers.into_iter().flatten().next();
            answer.unwrap_or_else(|| panic!("{} is not known", call.method))
        }
    }
}

fn debug_result<T: Debug, E: Debug>(outcome: Result<T, E>) -> String {
    format!("{:?}", outcome.unwrap())
}

fn device(call: &BackendCall) -> Device {
    Device { push_name: format!("{}{}", USERS[call.who], "x".repeat(call.size)), ..DEVICE.clone() }
}

async fn signal(call: &BackendCall, to: &dyn Backend, value: &[u8], next: usize) -> Option<String> {
    let (address, other) = (ADDRESSES[call.who], ADDRESSES[next]);
    let id = u32::try_from(call.what * 300).unwrap();
    let bytes = Bytes::copy_from_slice(value);
    let key = [u8::try_from(call.what).unwrap(); 32];
    let both: [(Arc<str>, Bytes); 2] = [(address.into(), bytes.clone()), (other.into(), bytes.clone())];
    Some(match call.method {
        "put_identity" => debug_result(to.put_identity(address, key).await),
        "put_identities_batch" => {
            debug_result(to.put_identities_batch(&[(address.into(), key), (other.into(), key)]).await)
        }
        "load_identity" => debug_result(to.load_identity(address).await),
        "delete_identity" => debug_result(to.delete_identity(address).await),
        "put_session" => debug_result(to.put_session(address, value).await),
        "put_sessions_batch" => debug_result(to.put_sessions_batch(&both).await),
        "get_session" => debug_result(to.get_session(address).await),
        "has_session" => debug_result(to.has_session(address).await),
        "delete_session" => debug_result(to.delete_session(address).await),
        "has_signal_state_for_user" => debug_result(to.has_signal_state_for_user(USERS[call.who]).await),
        "store_prekey" => debug_result(to.store_prekey(id, value, false).await),
        "store_prekeys_batch" => {
            debug_result(to.store_prekeys_batch(&[(id, bytes.clone()), (id + 1, bytes)], false).await)
        }
        "mark_prekeys_uploaded" => debug_result(to.mark_prekeys_uploaded(&[id, id + 1]).await),
        "load_prekey" => debug_result(to.load_prekey(id).await),
        "load_prekeys_batch" => debug_result(to.load_prekeys_batch(&[id, id + 1, id + 2]).await),
        "remove_prekey" => debug_result(to.remove_prekey(id).await),
        "get_max_prekey_id" => debug_result(to.get_max_prekey_id().await),
        "store_signed_prekey" => debug_result(to.store_signed_prekey(id, &value[..call.size.min(70)]).await),
        "load_signed_prekey" => debug_result(to.load_signed_prekey(id).await),
        "load_all_signed_prekeys" => sorted(to.load_all_signed_prekeys().await.unwrap()),
        "remove_signed_prekey" => debug_result(to.remove_signed_prekey(id).await),
        "put_sender_key" => debug_result(to.put_sender_key(address, value).await),
        "put_sender_keys_batch" => debug_result(to.put_sender_keys_batch(&both).await),
        "get_sender_key" => debug_result(to.get_sender_key(address).await),
        "delete_sender_key" => debug_result(to.delete_sender_key(address).await),
        _ => return None,
    })
}

async fn app_state(call: &BackendCall, to: &dyn Backend, value: &[u8]) -> Option<String> {
    let (collection, id) = (["regular", "critical"][call.who % 2], IDS[call.what].as_bytes());
    let index = |n: usize| [u8::try_from(n).unwrap(); 32];
    Some(match call.method {
        "set_sync_key" => {
            let key =
                AppStateSyncKey { key_data: value.to_vec(), fingerprint: vec![1], timestamp: call.number };
            debug_result(to.set_sync_key(id, key).await)
        }
        "get_sync_key" => debug_result(to.get_sync_key(id).await),
        "get_latest_sync_key_id" => debug_result(to.get_latest_sync_key_id().await),
        "set_version" => {
            let mut state =
                HashState { version: 7 + call.what as u64, hash: [9; 128], ..HashState::default() };
            state.index_value_map.insert("index".to_owned(), value.to_vec());
            debug_result(to.set_version(collection, state).await)
        }
        "get_version" => debug_result(to.get_version(collection).await),
        "put_mutation_macs" => {
            let macs = [call.what, call.who]
                .map(|n| AppStateMutationMAC { index_mac: index(n).to_vec(), value_mac: value.to_vec() });
            debug_result(to.put_mutation_macs(collection, 1, &macs).await)
        }
        "get_mutation_mac" => debug_result(to.get_mutation_mac(collection, &index(call.what)).await),
        "get_mutation_macs" => {
            sorted(to.get_mutation_macs(collection, &[index(call.what), index(call.who)]).await.unwrap())
        }
        "delete_mutation_macs" => {
            debug_result(to.delete_mutation_macs(collection, &[index(call.what).to_vec()]).await)
        }
        "clear_mutation_macs" => debug_result(to.clear_mutation_macs(collection).await),
        _ => return None,
    })
}

async fn groups_and_devices(
    call: &BackendCall,
    to: &dyn Backend,
    value: &[u8],
    next: usize,
) -> Option<String> {
    let (chat, user) = (CHATS[call.who], USERS[call.who]);
    let (one, other) = (ADDRESSES[call.what], ADDRESSES[next]);
    let mapping = |n: usize| LidPnMappingEntry {
        lid: MAPPINGS[n].0.to_owned(),
        phone_number: MAPPINGS[n].1.to_owned(),
        created_at: call.number,
        updated_at: 5,
        learning_source: "usync".to_owned(),
    };
    let list = |n: usize| DeviceListRecord {
        user: USERS[n].to_owned(),
        devices: vec![DeviceInfo::new(0, None), DeviceInfo::new(3, Some(1)).with_hosting(true)],
        timestamp: call.number,
        phash: Some("h".repeat(call.size)),
        raw_id: Some(4).filter(|_| call.what > 1),
    };
    Some(match call.method {
        "set_sender_key_status" => {
            let statuses = [(one, call.number > 0), (other, true)];
            debug_result(to.set_sender_key_status(chat, &statuses).await)
        }
        "get_sender_key_devices" => sorted(to.get_sender_key_devices(chat).await.unwrap()),
        "clear_sender_key_devices" => debug_result(to.clear_sender_key_devices(chat).await),
        "delete_sender_key_device_rows" => {
            debug_result(to.delete_sender_key_device_rows(&[one, "nobody"]).await)
        }
        "clear_all_sender_key_devices" => debug_result(to.clear_all_sender_key_devices().await),
        "put_lid_mapping" => debug_result(to.put_lid_mapping(&mapping(call.who)).await),
        "put_lid_mappings" => {
            debug_result(to.put_lid_mappings(&[mapping(call.who), mapping(call.what)]).await)
        }
        "get_lid_mapping" => debug_result(to.get_lid_mapping(MAPPINGS[call.who].0).await),
        "get_pn_mapping" => debug_result(to.get_pn_mapping(MAPPINGS[call.who].1).await),
        "get_all_lid_mappings" => sorted(to.get_all_lid_mappings().await.unwrap()),
        "update_device_list" => debug_result(to.update_device_list(list(call.who)).await),
        "update_device_lists" => debug_result(to.update_device_lists(vec![list(call.who), list(next)]).await),
        "get_devices" => debug_result(to.get_devices(user).await),
        "delete_devices" => debug_result(to.delete_devices(user).await),
        "put_group_metadata" => debug_result(to.put_group_metadata(chat, value).await),
        "get_group_metadata" => debug_result(to.get_group_metadata(chat).await),
        "delete_group_metadata" => debug_result(to.delete_group_metadata(chat).await),
        _ => return None,
    })
}

async fn tokens(call: &BackendCall, to: &dyn Backend, value: &[u8]) -> Option<String> {
    let (user, number) = (USERS[call.who], call.number);
    let token = &value[..call.size.min(40)];
    Some(match call.method {
        "put_tc_token" => {
            let sender_timestamp = Some(number).filter(|_| call.what > 1);
            let entry = TcTokenEntry { token: token.to_vec(), token_timestamp: number, sender_timestamp };
            debug_result(to.put_tc_token(user, &entry).await)
        }
        "get_tc_token" => debug_result(to.get_tc_token(user).await),
        "delete_tc_token" => debug_result(to.delete_tc_token(user).await),
        "get_all_tc_token_jids" => sorted(to.get_all_tc_token_jids().await.unwrap()),
        "delete_expired_tc_tokens" => {
            debug_result(to.delete_expired_tc_tokens(number, NUMBERS[call.what + 1]).await)
        }
        "touch_tc_token_sender_timestamp" => {
            debug_result(to.touch_tc_token_sender_timestamp(user, number).await)
        }
        "store_received_tc_token" => debug_result(to.store_received_tc_token(user, token, number).await),
        _ => return None,
    })
}

async fn messages(call: &BackendCall, to: &dyn Backend, value: &[u8], next: usize) -> Option<String> {
    let (chat, sender, id) = (CHATS[call.who], ADDRESSES[call.what], IDS[call.what]);
    let address = ADDRESSES[call.who];
    // Rows are dated by the current time, which may differ by a second between the two backends.
    let cutoff = now_secs() + if call.number > 0 { 1000 } else { -1000 };
    let row = |chat, message| PendingInboundRow { chat, sender, id, message };
    let key = |chat| PendingInboundKey { chat, sender, id };
    let secret = |n: usize, number: i64| MsgSecretEntry {
        chat: CHATS[n].into(),
        sender: sender.into(),
        msg_id: id.into(),
        secret: [u8::try_from(call.size % 251).unwrap(); 32],
        expires_at: number,
        message_ts: number.max(0),
    };
    Some(match call.method {
        "save_base_key" => debug_result(to.save_base_key(address, id, value).await),
        "has_same_base_key" => {
            let mut answers = Vec::new();
            for size in SIZES {
                let base_key = vec![u8::try_from(call.what * 16 + call.who).unwrap(); size];
                answers.push(to.has_same_base_key(address, id, &base_key).await.unwrap());
            }
            format!("{answers:?}")
        }
        "delete_base_key" => debug_result(to.delete_base_key(address, id).await),
        "store_sent_message" => debug_result(to.store_sent_message(chat, id, value).await),
        "take_sent_message" => debug_result(to.take_sent_message(chat, id).await),
        "delete_expired_sent_messages" => debug_result(to.delete_expired_sent_messages(cutoff).await),
        "store_pending_inbound" => debug_result(to.store_pending_inbound(chat, sender, id, value).await),
        "store_pending_inbound_batch" => {
            debug_result(to.store_pending_inbound_batch(&[row(chat, value), row(CHATS[next], value)]).await)
        }
        "get_pending_inbound" => debug_result(to.get_pending_inbound(chat, sender, id).await),
        "delete_pending_inbound" => debug_result(to.delete_pending_inbound(chat, sender, id).await),
        "delete_pending_inbound_batch" => {
            debug_result(to.delete_pending_inbound_batch(&[key(chat), key(CHATS[next])]).await)
        }
        "delete_expired_pending_inbound" => {
            let swept = debug_result(to.delete_expired_pending_inbound(cutoff).await);
            if call.number > 0 {
                // The tested backend sweeps old base keys at the same time, the reference does not.
                for (address, id) in ADDRESSES.into_iter().flat_map(|address| IDS.map(|id| (address, id))) {
                    to.delete_base_key(address, id).await.unwrap();
                }
            }
            swept
        }
        "put_msg_secret" => debug_result(to.put_msg_secret(chat, sender, id, &[3; 32]).await),
        "put_msg_secrets" => {
            let entries = vec![secret(call.who, call.number), secret(next, call.number + 1)];
            debug_result(to.put_msg_secrets(entries).await)
        }
        "get_msg_secret_with_ts" => debug_result(to.get_msg_secret_with_ts(chat, sender, id).await),
        "delete_expired_msg_secrets" => debug_result(to.delete_expired_msg_secrets(call.number).await),
        _ => return None,
    })
}
