//! App state: the settings that an account's devices synchronise. The server keeps patches that it cannot read,
//! numbers them, and tells the other devices that there are more.

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

/// Patches that are kept of one collection; then no more are taken.
const MAX_PATCHES: usize = 1000;

/// The largest patch, in bytes. What is larger is uploaded as a file, and the patch names it.
const MAX_PATCH_BYTES: usize = 64 << 10;

/// Collections of one account.
const MAX_COLLECTIONS: usize = 16;

/// The patches of an account by the name of their collection; a patch's version is its place, from 1.
pub type AppStatePatches = HashMap<Box<str>, Vec<Vec<u8>>>;

/// Answers `<sync>`: takes patches in, and gives out those that a device does not have.
pub fn answer(shared: &ServerState, device: DeviceId, query: &Node) -> (Node, Vec<PhoneStanza>) {
    let Some(asked) = query.get_optional_child("sync") else {
        return (error_iq(query, 400, "bad-request"), Vec::new());
    };
    let mut hub = shared.registry();
    let mut mail = Vec::new();
    let mut changed = Vec::new();
    let collections: Vec<Node> = children(asked)
        .iter()
        .filter(|collection| collection.tag == "collection")
        .map(|collection| {
            let settings = &mut hub.directory.account_mut(device.account).app_state;
            let (answer, took) = sync_collection(settings, collection);
            changed.extend(took.then(|| collection_version_node(settings, collection)));
            answer
        })
        .collect();
    for collection in changed {
        notify_other_devices(&mut hub, device, &collection, shared.seconds(), &mut mail);
    }
    let answer = NodeBuilder::new("sync").children(collections).build();
    (result_iq(query, [answer]), mail)
}

/// One collection: its answer, and whether a patch was taken.
fn sync_collection(settings: &mut AppStatePatches, asked: &Node) -> (Node, bool) {
    let name = attr(asked, "name");
    let known = settings.len() < MAX_COLLECTIONS || settings.contains_key(name.as_ref());
    let from: usize = attr(asked, "version").parse().unwrap_or(0);
    let answer = NodeBuilder::new("collection").attr("name", name.as_ref());
    let refused = |answer: NodeBuilder, code: u16| {
        let error = NodeBuilder::new("error").attr("code", code).build();
        (answer.attr("type", "error").children([error]).build(), false)
    };
    if !known {
        return refused(answer, 400);
    }
    let patches = settings.entry(name.as_ref().into()).or_default();
    let given = asked.get_optional_child("patch").and_then(content_bytes);
    if let Some(given) = given {
        if from != patches.len() {
            return refused(answer, 409);
        }
        let room = patches.len() < MAX_PATCHES && given.len() <= MAX_PATCH_BYTES;
        let Some(patch) = with_version(given, from + 1).filter(|_| room) else {
            return refused(answer, 400);
        };
        patches.push(patch);
    }
    let answer = answer.attr("type", "result").attr("version", patches.len());
    let missing = if given.is_some() { &[] } else { patches.get(from..).unwrap_or_default() };
    if missing.is_empty() {
        return (answer.build(), given.is_some());
    }
    let missing = missing.iter().map(|patch| NodeBuilder::new("patch").bytes(patch.clone()).build());
    (answer.children([NodeBuilder::new("patches").children(missing).build()]).build(), false)
}

/// A patch with the version that the server gives it.
fn with_version(patch: &[u8], version: usize) -> Option<Vec<u8>> {
    let mut patch = SyncdPatch::decode_from_slice(patch).ok()?;
    patch.version = MessageField::some(SyncdVersion { version: Some(version as u64) });
    Some(patch.encode_to_vec())
}

/// What other devices hear of a collection.
fn collection_version_node(settings: &AppStatePatches, asked: &Node) -> Node {
    let name = attr(asked, "name");
    let version = settings.get(name.as_ref()).map_or(0, Vec::len);
    NodeBuilder::new("collection").attr("name", name.as_ref()).attr("version", version).build()
}

fn notify_other_devices(
    hub: &mut Registry,
    device: DeviceId,
    collection: &Node,
    seconds: u64,
    mail: &mut Vec<PhoneStanza>,
) {
    let notification = hub.notification("server_sync", seconds, collection.clone());
    let numbers: Vec<u16> = hub.directory.account(device.account).devices.keys().copied().collect();
    for number in numbers.into_iter().filter(|number| *number != device.number) {
        let other = DeviceId { account: device.account, number };
        hub.deliver(other, Arc::clone(&notification), mail);
    }
}
