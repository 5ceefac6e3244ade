//! Queries. The list is closed: what is not in it is answered with an empty result, counted and logged, so that a
//! client's new need shows up instead of a client that waits.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::DeviceId;
use crate::hub::{Hub, LinkId, Peer};
use crate::keys::{ONE_TIME_LOW, signed_key};
use crate::pairing;
use crate::shared::Shared;
use crate::stanza::{attr, children, error, jid, result};
use crate::writing::bundle_of;
use crate::{groups, link_code, settings, usync};

/// How long a client may use the addresses of media hosts, in seconds.
const MEDIA_TTL: u32 = 3600;

/// Takes a query, or the answer to one of the server's own.
pub fn answer(shared: &Arc<Shared>, link: LinkId, stanza: &Node) {
    let kind = attr(stanza, "type");
    let child = children(stanza).first();
    let tag = child.map(|child| child.tag.as_ref()).unwrap_or_default();
    if kind == "result" || kind == "error" {
        if tag == "pair-device-sign" {
            pairing::confirm(shared, link, stanza);
        }
        return;
    }
    let namespace = attr(stanza, "xmlns");
    shared.stats.query(format!("{kind} {namespace} {tag}"));
    let peer = match shared.hub().link(link).map(|link| &link.peer) {
        Some(Peer::Device(device)) => Some(*device),
        Some(Peer::Newcomer(_)) => None,
        Some(Peer::Refused) | None => return,
    };
    let answered = match (peer, namespace.as_ref()) {
        (Some(device), _) => of_device(shared, link, device, stanza, tag),
        (None, "md") => link_code::answer(shared, link, stanza),
        (None, _) => Some(plain(shared, stanza, tag)),
    };
    if let Some(answer) = answered {
        shared.hub().reply(link, answer);
    }
    shared.changed.notify_waiters();
}

/// Queries of a device that is logged in. `None` when the answer went out by itself.
fn of_device(shared: &Arc<Shared>, link: LinkId, device: DeviceId, query: &Node, tag: &str) -> Option<Node> {
    let kind = attr(query, "type");
    let answer = match (attr(query, "xmlns").as_ref(), kind.as_ref(), tag) {
        ("passive", _, "active") => {
            let mut hub = shared.hub();
            hub.reply(link, result(query, []));
            hub.activate(link);
            return None;
        }
        ("encrypt", "get", "count") => {
            let hub = shared.hub();
            let count = hub.directory.device(device).map_or(0, |device| device.keys.one_time.len());
            result(query, [NodeBuilder::new("count").attr("value", count).build()])
        }
        ("encrypt", "get", "key") => keys(shared, query),
        // The digest of what is published: without it clients skip the comparison.
        ("encrypt", "get", "digest") => result(query, []),
        ("encrypt", "set", "rotate") => rotate(&mut shared.hub(), device, query),
        ("encrypt", "set", _) => publish(&mut shared.hub(), device, query),
        ("usync", _, _) => usync::answer(&shared.hub(), query, shared.seconds()),
        ("w:g2", _, _) => {
            let mut mail = Vec::new();
            let answer = groups::answer(&mut shared.hub(), device, query, shared.seconds(), &mut mail);
            shared.hand_out(mail);
            answer
        }
        ("w:m", _, _) => result(query, [media_hosts(shared)]),
        ("w:sync:app:state", _, _) => {
            let (answer, mail) = settings::answer(shared, device, query);
            shared.hand_out(mail);
            answer
        }
        ("md", "set", "remove-companion-device") => {
            leave(shared, link, device);
            result(query, [])
        }
        _ => plain(shared, query, tag),
    };
    Some(answer)
}

/// A device unlinks itself. It hears no more than that it did, and hangs up by itself.
fn leave(shared: &Arc<Shared>, link: LinkId, device: DeviceId) {
    let mut hub = shared.hub();
    if let Some(link) = hub.link_mut(link) {
        link.peer = Peer::Refused;
    }
    if let Some(device) = hub.directory.device_mut(device) {
        device.link = None;
    }
    drop(hub);
    pairing::unlink(shared, device.account, device.number);
}

/// Queries whose answer depends on nobody.
fn plain(shared: &Shared, query: &Node, tag: &str) -> Node {
    let kind = attr(query, "type");
    match (attr(query, "xmlns").as_ref(), kind.as_ref()) {
        ("w:p" | "urn:xmpp:ping", _) => {
            let mut pong = result(query, []);
            pong.attrs.insert("t", shared.seconds());
            pong
        }
        ("abt", _) => {
            let props = NodeBuilder::new("props")
                .attr("protocol", "1")
                .attr("ab_key", "sandbox")
                .attr("hash", "sandbox")
                .attr("refresh", 86_400);
            result(query, [props.build()])
        }
        ("blocklist", _) => result(query, [NodeBuilder::new("list").attr("dhash", "empty").build()]),
        ("privacy", "get") => result(query, [privacy()]),
        ("passive" | "privacy" | "w:stats" | "urn:xmpp:whatsapp:dirty" | "status", _) => result(query, []),
        (namespace, kind) => {
            tracing::info!(namespace, kind, tag, "the sandbox's WhatsApp Web does not know this query");
            result(query, [])
        }
    }
}

/// Everybody may see everything.
fn privacy() -> Node {
    let categories = ["readreceipts", "last", "online", "profile", "status", "groupadd", "calladd"];
    let category = |name| NodeBuilder::new("category").attr("name", name).attr("value", "all").build();
    NodeBuilder::new("privacy").children(categories.map(category)).build()
}

/// `<list>` of bundles for the devices that were asked for.
fn keys(shared: &Shared, query: &Node) -> Node {
    let Some(asked) = query.get_optional_child("key") else { return error(query, 400, "bad-request") };
    let mut hub = shared.hub();
    let mut users = Vec::new();
    let mut low = Vec::new();
    for user in children(asked) {
        let Some(jid) = jid(user, "jid") else { continue };
        let Some(device) = hub.directory.device_of(&jid) else {
            users.push(no_keys(&jid, 404));
            continue;
        };
        let Some(bundle) = bundle_of(&mut hub, device) else {
            users.push(no_keys(&jid, 406));
            continue;
        };
        let known = hub.directory.device(device);
        if known.is_some_and(|known| known.keys.one_time.len() + 1 == ONE_TIME_LOW) {
            low.push(device);
        }
        let identity = known.map(|known| known.identity.clone());
        users.push(bundle.into_node(jid, identity));
    }
    for device in low {
        ask_for_more(&mut hub, device, shared.seconds());
    }
    result(query, [NodeBuilder::new("list").children(users).build()])
}

fn no_keys(jid: &Jid, code: u16) -> Node {
    let error = NodeBuilder::new("error").attr("code", code).build();
    NodeBuilder::new("user").attr("jid", jid).children([error]).build()
}

/// Tells a device that its one-time keys run out.
fn ask_for_more(hub: &mut Hub, device: DeviceId, seconds: u64) {
    let left = hub.directory.device(device).map_or(0, |device| device.keys.one_time.len());
    let count = NodeBuilder::new("count").attr("value", left).build();
    let notification = hub.notification("encrypt", seconds, count);
    let mut nobody = Vec::new();
    hub.deliver(device, notification, &mut nobody);
}

fn publish(hub: &mut Hub, device: DeviceId, query: &Node) -> Node {
    match hub.directory.device_mut(device).and_then(|device| device.keys.publish(query)) {
        Some(()) => result(query, []),
        None => error(query, 406, "not-acceptable"),
    }
}

fn rotate(hub: &mut Hub, device: DeviceId, query: &Node) -> Node {
    let rotated = query.get_optional_child("rotate").and_then(|rotate| rotate.get_optional_child("skey"));
    match (rotated.and_then(signed_key), hub.directory.device_mut(device)) {
        (Some(signed), Some(device)) => {
            device.keys.signed = signed;
            result(query, [])
        }
        _ => error(query, 406, "not-acceptable"),
    }
}

fn media_hosts(shared: &Shared) -> Node {
    let host = NodeBuilder::new("host").attr("hostname", shared.address.to_string()).attr("type", "primary");
    NodeBuilder::new("media_conn")
        .attr("auth", "sandbox")
        .attr("ttl", MEDIA_TTL)
        .attr("auth_ttl", MEDIA_TTL)
        .attr("max_buckets", 12)
        .children([host.build()])
        .build()
}
