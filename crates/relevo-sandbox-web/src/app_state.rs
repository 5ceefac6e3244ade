//! App state: the settings that an account's devices synchronise. The server stores encrypted patches, numbers them
//! and notifies the other devices.

use std::collections::HashMap;
use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::buffa::{Message as _, MessageField};
use relevo_linked_device::client::waproto::whatsapp::{SyncdPatch, SyncdVersion};

use crate::accounts::DeviceId;
use crate::registry::{PhoneStanza, Registry};
use crate::server_state::ServerState;
use crate::stanza::{attr, children, content_bytes, error_iq, result_iq};

/// Maximum number of patches of a collection; further ones are refused.
const MAX_PATCHES: usize = 1000;

/// Maximum size of a patch, in bytes. A larger patch is uploaded as a file that the patch refers to.
const MAX_PATCH_BYTES: usize = 64 << 10;

/// Maximum number of collections of an account.
const MAX_COLLECTIONS: usize = 16;

/// The patches of an account by collection. A patch's version is its position, from 1.
pub type AppStatePatches = HashMap<Box<str>, Vec<Vec<u8>>>;

/// Answers `<sync>`: stores new patches and returns those that the device does not have.
pub fn answer(shared: &ServerState, device: DeviceId, query: &Node) -> (Node, Vec<PhoneStanza>) {
    let Some(request) = query.get_optional_child("sync") else {
        return (error_iq(query, 400, "bad-request"), Vec::new());
    };
    let mut registry = shared.registry();
    let mut phone_stanzas = Vec::new();
    let mut changed = Vec::new();
    let collections: Vec<Node> = children(request)
        .iter()
        .filter(|collection| collection.tag == "collection")
        .map(|collection| {
            let settings = &mut registry.directory.account_mut(device.account).app_state;
            let (answer, stored) = sync_collection(settings, collection);
            changed.extend(stored.then(|| collection_version_node(settings, collection)));
            answer
        })
        .collect();
    for collection in changed {
        notify_other_devices(&mut registry, device, &collection, shared.seconds(), &mut phone_stanzas);
    }
    let answer = NodeBuilder::new("sync").children(collections).build();
    (result_iq(query, [answer]), phone_stanzas)
}

/// Synchronises one collection. Returns its answer, and whether a patch was stored.
fn sync_collection(settings: &mut AppStatePatches, collection: &Node) -> (Node, bool) {
    let name = attr(collection, "name");
    let known = settings.len() < MAX_COLLECTIONS || settings.contains_key(name.as_ref());
    let from: usize = attr(collection, "version").parse().unwrap_or(0);
    let answer = NodeBuilder::new("collection").attr("name", name.as_ref());
    let refused = |answer: NodeBuilder, code: u16| {
        let error = NodeBuilder::new("error").attr("code", code).build();
        (answer.attr("type", "error").children([error]).build(), false)
    };
    if !known {
        return refused(answer, 400);
    }
    let patches = settings.entry(name.as_ref().into()).or_default();
    let new_patch = collection.get_optional_child("patch").and_then(content_bytes);
    if let Some(new_patch) = new_patch {
        if from != patches.len() {
            return refused(answer, 409);
        }
        let room = patches.len() < MAX_PATCHES && new_patch.len() <= MAX_PATCH_BYTES;
        let Some(patch) = with_version(new_patch, from + 1).filter(|_| room) else {
            return refused(answer, 400);
        };
        patches.push(patch);
    }
    let answer = answer.attr("type", "result").attr("version", patches.len());
    let missing = if new_patch.is_some() { &[] } else { patches.get(from..).unwrap_or_default() };
    if missing.is_empty() {
        return (answer.build(), new_patch.is_some());
    }
    let missing = missing.iter().map(|patch| NodeBuilder::new("patch").bytes(patch.clone()).build());
    (answer.children([NodeBuilder::new("patches").children(missing).build()]).build(), false)
}

/// A patch with the version that the server assigns.
fn with_version(patch: &[u8], version: usize) -> Option<Vec<u8>> {
    let mut patch = SyncdPatch::decode_from_slice(patch).ok()?;
    patch.version = MessageField::some(SyncdVersion { version: Some(version as u64) });
    Some(patch.encode_to_vec())
}

/// The version of a collection for other devices.
fn collection_version_node(settings: &AppStatePatches, collection: &Node) -> Node {
    let name = attr(collection, "name");
    let version = settings.get(name.as_ref()).map_or(0, Vec::len);
    NodeBuilder::new("collection").attr("name", name.as_ref()).attr("version", version).build()
}

fn notify_other_devices(
    registry: &mut Registry,
    device: DeviceId,
    collection: &Node,
    seconds: u64,
    phone_stanzas: &mut Vec<PhoneStanza>,
) {
    let notification = registry.notification("server_sync", seconds, collection.clone());
    let numbers: Vec<u16> = registry.directory.account(device.account).devices.keys().copied().collect();
    for number in numbers.into_iter().filter(|number| *number != device.number) {
        let other = DeviceId { account: device.account, number };
        registry.deliver(other, Arc::clone(&notification), phone_stanzas);
    }
}
