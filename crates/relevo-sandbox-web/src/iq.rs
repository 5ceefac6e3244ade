//! Answers queries. The list of known queries is closed: an unknown query is counted, logged and answered with an
//! empty result, so that a client does not wait and its new query is visible.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::DeviceId;
use crate::keys::{LOW_ONE_TIME_PRE_KEYS, parse_signed_pre_key};
use crate::pairing;
use crate::phone_send::take_bundle;
use crate::registry::{ConnectionId, ConnectionPeer, Registry};
use crate::server_state::ServerState;
use crate::stanza::{attr, children, error_iq, jid_attr, result_iq};
use crate::{app_state, groups, link_code, usync};

/// Time for which a client may use the addresses of media hosts, in seconds.
const MEDIA_TTL: u32 = 3600;

/// Handles a query, or the answer to a query of the server.
pub fn answer(shared: &Arc<ServerState>, connection: ConnectionId, stanza: &Node) {
    let kind = attr(stanza, "type");
    let child = children(stanza).first();
    let tag = child.map(|child| child.tag.as_ref()).unwrap_or_default();
    if kind == "result" || kind == "error" {
        if tag == "pair-device-sign" {
            pairing::complete_pairing(shared, connection, stanza);
        }
        return;
    }
    let namespace = attr(stanza, "xmlns");
    shared.stats.record_query(format!("{kind} {namespace} {tag}"));
    let peer = match shared.registry().connection(connection).map(|connection| &connection.peer) {
        Some(ConnectionPeer::Device(device)) => Some(*device),
        Some(ConnectionPeer::Unpaired(_)) => None,
        Some(ConnectionPeer::Refused) | None => return,
    };
    let answered = match (peer, namespace.as_ref()) {
        (Some(device), _) => answer_device_query(shared, connection, device, stanza, tag),
        (None, "md") => link_code::answer(shared, connection, stanza),
        (None, _) => Some(answer_common_query(shared, stanza, tag)),
    };
    if let Some(answer) = answered {
        shared.registry().reply(connection, answer);
    }
    shared.changed.notify_waiters();
}

/// Answers a query of a logged-in device. `None` when the answer has been sent already.
fn answer_device_query(
    shared: &Arc<ServerState>,
    connection: ConnectionId,
    device: DeviceId,
    query: &Node,
    tag: &str,
) -> Option<Node> {
    let kind = attr(query, "type");
    let answer = match (attr(query, "xmlns").as_ref(), kind.as_ref(), tag) {
        ("passive", _, "active") => {
            let mut registry = shared.registry();
            registry.reply(connection, result_iq(query, []));
            registry.activate(connection);
            return None;
        }
        ("encrypt", "get", "count") => {
            let registry = shared.registry();
            let count = registry.directory.device(device).map_or(0, |device| device.keys.one_time.len());
            result_iq(query, [NodeBuilder::new("count").attr("value", count).build()])
        }
        ("encrypt", "get", "key") => answer_key_query(shared, query),
        // The digest of the published keys. Without it clients skip the comparison.
        ("encrypt", "get", "digest") => result_iq(query, []),
        ("encrypt", "set", "rotate") => rotate_signed_pre_key(&mut shared.registry(), device, query),
        ("encrypt", "set", _) => publish_keys(&mut shared.registry(), device, query),
        ("usync", _, _) => usync::answer(&shared.registry(), query, shared.seconds()),
        ("w:g2", _, _) => {
            let mut phone_stanzas = Vec::new();
            let answer =
                groups::answer(&mut shared.registry(), device, query, shared.seconds(), &mut phone_stanzas);
            shared.deliver_to_phones(phone_stanzas);
            answer
        }
        ("w:m", _, _) => result_iq(query, [media_conn_node(shared)]),
        ("w:sync:app:state", _, _) => {
            let (answer, phone_stanzas) = app_state::answer(shared, device, query);
            shared.deliver_to_phones(phone_stanzas);
            answer
        }
        ("md", "set", "remove-companion-device") => {
            unlink_self(shared, connection, device);
            result_iq(query, [])
        }
        _ => answer_common_query(shared, query, tag),
    };
    Some(answer)
}

/// Unlinks a device at its own request. The device gets the answer only and closes the connection.
fn unlink_self(shared: &Arc<ServerState>, connection: ConnectionId, device: DeviceId) {
    let mut registry = shared.registry();
    if let Some(connection) = registry.connection_mut(connection) {
        connection.peer = ConnectionPeer::Refused;
    }
    if let Some(device) = registry.directory.device_mut(device) {
        device.connection = None;
    }
    drop(registry);
    pairing::unlink_device(shared, device.account, device.number);
}

/// Answers queries that depend on no device.
fn answer_common_query(shared: &ServerState, query: &Node, tag: &str) -> Node {
    let kind = attr(query, "type");
    match (attr(query, "xmlns").as_ref(), kind.as_ref()) {
        ("w:p" | "urn:xmpp:ping", _) => {
            let mut pong = result_iq(query, []);
            pong.attrs.insert("t", shared.seconds());
            pong
        }
        ("abt", _) => {
            let props = NodeBuilder::new("props")
                .attr("protocol", "1")
                .attr("ab_key", "sandbox")
                .attr("hash", "sandbox")
                .attr("refresh", 86_400);
            result_iq(query, [props.build()])
        }
        ("blocklist", _) => result_iq(query, [NodeBuilder::new("list").attr("dhash", "empty").build()]),
        ("privacy", "get") => result_iq(query, [privacy_node()]),
        ("passive" | "privacy" | "w:stats" | "urn:xmpp:whatsapp:dirty" | "status", _) => result_iq(query, []),
        (namespace, kind) => {
            tracing::info!(namespace, kind, tag, "unknown query; answering with an empty result");
            result_iq(query, [])
        }
    }
}

/// Privacy settings that show everything to every user.
fn privacy_node() -> Node {
    let categories = ["readreceipts", "last", "online", "profile", "status", "groupadd", "calladd"];
    let category = |name| NodeBuilder::new("category").attr("name", name).attr("value", "all").build();
    NodeBuilder::new("privacy").children(categories.map(category)).build()
}

/// `<list>` of the key bundles of the requested devices.
fn answer_key_query(shared: &ServerState, query: &Node) -> Node {
    let Some(request) = query.get_optional_child("key") else { return error_iq(query, 400, "bad-request") };
    let mut registry = shared.registry();
    let mut users = Vec::new();
    let mut low = Vec::new();
    for user in children(request) {
        let Some(jid) = jid_attr(user, "jid") else { continue };
        let Some(device) = registry.directory.device_of(&jid) else {
            users.push(key_error_node(&jid, 404));
            continue;
        };
        let Some(bundle) = take_bundle(&mut registry, device) else {
            users.push(key_error_node(&jid, 406));
            continue;
        };
        let known = registry.directory.device(device);
        if known.is_some_and(|known| known.keys.one_time.len() + 1 == LOW_ONE_TIME_PRE_KEYS) {
            low.push(device);
        }
        let identity = known.map(|known| known.identity.clone());
        users.push(bundle.into_node(jid, identity));
    }
    for device in low {
        request_pre_keys(&mut registry, device, shared.seconds());
    }
    result_iq(query, [NodeBuilder::new("list").children(users).build()])
}

fn key_error_node(jid: &Jid, code: u16) -> Node {
    let error = NodeBuilder::new("error").attr("code", code).build();
    NodeBuilder::new("user").attr("jid", jid).children([error]).build()
}

/// Notifies a device that few one-time keys are left.
fn request_pre_keys(registry: &mut Registry, device: DeviceId, seconds: u64) {
    let left = registry.directory.device(device).map_or(0, |device| device.keys.one_time.len());
    let count = NodeBuilder::new("count").attr("value", left).build();
    let notification = registry.notification("encrypt", seconds, count);
    let mut phone_stanzas = Vec::new();
    registry.deliver(device, notification, &mut phone_stanzas);
}

fn publish_keys(registry: &mut Registry, device: DeviceId, query: &Node) -> Node {
    match registry.directory.device_mut(device).and_then(|device| device.keys.publish(query)) {
        Some(()) => result_iq(query, []),
        None => error_iq(query, 406, "not-acceptable"),
    }
}

fn rotate_signed_pre_key(registry: &mut Registry, device: DeviceId, query: &Node) -> Node {
    let rotated = query.get_optional_child("rotate").and_then(|rotate| rotate.get_optional_child("skey"));
    match (rotated.and_then(parse_signed_pre_key), registry.directory.device_mut(device)) {
        (Some(signed), Some(device)) => {
            device.keys.signed = signed;
            result_iq(query, [])
        }
        _ => error_iq(query, 406, "not-acceptable"),
    }
}

fn media_conn_node(shared: &ServerState) -> Node {
    let host = NodeBuilder::new("host").attr("hostname", shared.address.to_string()).attr("type", "primary");
    NodeBuilder::new("media_conn")
        .attr("auth", "sandbox")
        .attr("ttl", MEDIA_TTL)
        .attr("auth_ttl", MEDIA_TTL)
        .attr("max_buckets", 12)
        .children([host.build()])
        .build()
}
