//! Groups: members, what a group tells of itself, and who gets what is sent to it.

use std::collections::BTreeMap;

use relevo_linked_device::client::wacore::messages::MessageUtils;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{AccountId, DeviceId, Naming};
use crate::hub::{Hub, Mail};
use crate::membership;
use crate::stanza::{attr, children, error, jid, maybe, result};

/// Groups that clients may have made in all.
const MOST_GROUPS: usize = 10_000;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Member,
    Admin,
    /// Who made the group.
    Owner,
}

#[derive(Debug, Clone)]
pub struct Group {
    pub subject: String,
    /// How its members are called in it.
    pub naming: Naming,
    pub created: u64,
    members: BTreeMap<AccountId, Role>,
}

impl Group {
    pub fn new(subject: &str, owner: AccountId, others: &[AccountId], created: u64) -> Self {
        let mut members: BTreeMap<AccountId, Role> =
            others.iter().map(|account| (*account, Role::Member)).collect();
        members.insert(owner, Role::Owner);
        Self { subject: subject.to_owned(), naming: Naming::Lid, created, members }
    }

    pub fn has(&self, account: AccountId) -> bool {
        self.members.contains_key(&account)
    }

    /// Whether a member is an admin.
    pub fn may_change(&self, account: AccountId) -> bool {
        self.members.get(&account).is_some_and(|role| *role != Role::Member)
    }

    pub fn members(&self) -> impl Iterator<Item = AccountId> {
        self.members.keys().copied()
    }

    /// Takes a member in, or gives it another role; true when it was not in it.
    pub fn set(&mut self, account: AccountId, role: Role) -> bool {
        self.members.insert(account, role).is_none()
    }

    pub fn remove(&mut self, account: AccountId) -> bool {
        self.members.remove(&account).is_some()
    }

    /// All devices of all members.
    pub fn devices<'a>(&'a self, hub: &'a Hub) -> impl Iterator<Item = DeviceId> {
        self.members().flat_map(|account| {
            hub.directory.account(account).numbers().map(move |number| DeviceId { account, number })
        })
    }

    /// `<group>` with everything about it.
    fn describe(&self, hub: &Hub, id: &str) -> Node {
        let participants = self.members.iter().map(|(account, role)| {
            let participant = NodeBuilder::new("participant")
                .attr("jid", hub.directory.user(*account, self.naming))
                .attr("phone_number", hub.directory.user(*account, Naming::PhoneNumber))
                .attr("lid", hub.directory.user(*account, Naming::Lid));
            match role {
                Role::Member => participant.build(),
                Role::Admin => participant.attr("type", "admin").build(),
                Role::Owner => participant.attr("type", "superadmin").build(),
            }
        });
        let owner = self.members.iter().find(|(_, role)| **role == Role::Owner).map(|(account, _)| *account);
        let mut group = NodeBuilder::new("group")
            .attr("id", id)
            .attr("subject", self.subject.as_str())
            .attr("s_t", self.created)
            .attr("creation", self.created)
            .attr("size", self.members.len())
            .attr(
                "addressing_mode",
                match self.naming {
                    Naming::Lid => "lid",
                    Naming::PhoneNumber => "pn",
                },
            );
        if let Some(owner) = owner {
            group = group.attr("creator", hub.directory.user(owner, self.naming));
        }
        group.children(participants).build()
    }
}

/// Answers a query of the namespace `w:g2`.
pub fn answer(hub: &mut Hub, asker: DeviceId, query: &Node, seconds: u64, mail: &mut Vec<Mail>) -> Node {
    let Some(asked) = children(query).first() else { return error(query, 400, "bad-request") };
    if let Some(answer) = membership::answer(hub, asker, query, seconds, mail) {
        return answer;
    }
    match (attr(query, "type").as_ref(), asked.tag.as_ref()) {
        ("get", "query") => about_one(hub, asker, query),
        ("get", "participating") => {
            let own = hub.groups.iter().filter(|(_, group)| group.has(asker.account));
            let groups = own.map(|(id, group)| group.describe(hub, id)).collect::<Vec<_>>();
            result(query, [NodeBuilder::new("groups").children(groups).build()])
        }
        ("set", "create") => create(hub, asker, query, asked, seconds),
        ("set", "subject") => membership::rename(hub, asker, query, asked),
        ("set", "leave") => {
            let mut left = Vec::new();
            for group in children(asked) {
                let id: Option<Jid> = attr(group, "id").parse().ok();
                if let Some(known) = id.and_then(|id| hub.groups.get_mut(id.user.as_str())) {
                    known.remove(asker.account);
                    left.push(group.clone());
                }
            }
            result(query, [NodeBuilder::new("leave").children(left).build()])
        }
        _ => error(query, 501, "feature-not-implemented"),
    }
}

fn about_one(hub: &Hub, asker: DeviceId, query: &Node) -> Node {
    let id = attr(query, "to").parse::<Jid>().ok();
    let found = id.as_ref().and_then(|id| hub.groups.get_key_value(id.user.as_str()));
    match found {
        Some((id, group)) if group.has(asker.account) => result(query, [group.describe(hub, id)]),
        Some(_) => error(query, 403, "forbidden"),
        None => error(query, 404, "item-not-found"),
    }
}

fn create(hub: &mut Hub, asker: DeviceId, query: &Node, asked: &Node, seconds: u64) -> Node {
    if hub.groups.len() >= MOST_GROUPS {
        return error(query, 429, "rate-overlimit");
    }
    let wanted = asked.get_children_by_tag("participant");
    let others: Vec<AccountId> =
        wanted.filter_map(|participant| hub.directory.account_of(&jid(participant, "jid")?)).collect();
    let id = insert(hub, Group::new(&attr(asked, "subject"), asker.account, &others, seconds));
    match hub.groups.get(id.user.as_str()) {
        Some(group) => result(query, [group.describe(hub, &id.user)]),
        None => error(query, 500, "internal-server-error"),
    }
}

/// Takes a new group in, under an id of its own.
pub fn insert(hub: &mut Hub, group: Group) -> Jid {
    let id = format!("{}", 120_363_000_000_000_001_u64 + hub.groups.len() as u64);
    hub.groups.insert(id.as_str().into(), group);
    Jid::group(id)
}

/// Gives every device of a group but the sender's own the ciphertext that is common to all.
pub fn share_with_all(
    hub: &Hub,
    from: DeviceId,
    chat: &Jid,
    common: &[Node],
    mut share: impl FnMut(DeviceId, Naming, Vec<Node>),
) {
    let Some(group) = hub.groups.get(chat.user.as_str()) else { return };
    for device in group.devices(hub).filter(|device| *device != from) {
        share(device, group.naming, common.to_vec());
    }
}

/// Adds to the acknowledgement of a group message the hash of the devices as the server knows them, when the
/// sender told the hash of those it sent to. A sender whose list is old asks for a new one.
pub fn with_hash(hub: &Hub, from: DeviceId, stanza: &Node, to: &Jid, ack: NodeBuilder) -> NodeBuilder {
    let group = to.is_group().then(|| hub.groups.get(to.user.as_str())).flatten();
    let (Some(group), Some(_)) = (group, maybe(stanza, "phash")) else { return ack };
    let mut devices: Vec<Jid> = group
        .devices(hub)
        .filter(|device| *device != from)
        .map(|device| hub.directory.jid(device, group.naming))
        .collect();
    devices.push(hub.directory.jid(from, group.naming));
    match MessageUtils::participant_list_hash(devices.iter()) {
        Ok(hash) => ack.attr("phash", hash),
        Err(_) => ack,
    }
}
