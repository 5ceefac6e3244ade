//! Groups: members, what a group tells of itself, and who gets what is sent to it.

use std::collections::BTreeMap;

use relevo_linked_device::client::wacore::messages::MessageUtils;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::group_members;
use crate::registry::{PhoneStanza, Registry};
use crate::stanza::{attr, children, error_iq, jid_attr, optional_attr, result_iq};

/// Groups that clients may have made in all.
const MAX_GROUPS: usize = 10_000;

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
    pub addressing_mode: AddressingMode,
    pub created: u64,
    members: BTreeMap<AccountId, Role>,
}

impl Group {
    pub fn new(subject: &str, owner: AccountId, others: &[AccountId], created: u64) -> Self {
        let mut members: BTreeMap<AccountId, Role> =
            others.iter().map(|account| (*account, Role::Member)).collect();
        members.insert(owner, Role::Owner);
        Self { subject: subject.to_owned(), addressing_mode: AddressingMode::Lid, created, members }
    }

    pub fn is_member(&self, account: AccountId) -> bool {
        self.members.contains_key(&account)
    }

    /// Whether a member is an admin.
    pub fn is_admin(&self, account: AccountId) -> bool {
        self.members.get(&account).is_some_and(|role| *role != Role::Member)
    }

    pub fn members(&self) -> impl Iterator<Item = AccountId> {
        self.members.keys().copied()
    }

    /// Takes a member in, or gives it another role; true when it was not in it.
    pub fn set_role(&mut self, account: AccountId, role: Role) -> bool {
        self.members.insert(account, role).is_none()
    }

    pub fn remove(&mut self, account: AccountId) -> bool {
        self.members.remove(&account).is_some()
    }

    /// All devices of all members.
    pub fn devices<'a>(&'a self, hub: &'a Registry) -> impl Iterator<Item = DeviceId> {
        self.members().flat_map(|account| {
            hub.directory.account(account).device_numbers().map(move |number| DeviceId { account, number })
        })
    }

    /// `<group>` with everything about it.
    fn to_node(&self, hub: &Registry, id: &str) -> Node {
        let participants = self.members.iter().map(|(account, role)| {
            let participant = NodeBuilder::new("participant")
                .attr("jid", hub.directory.user_jid(*account, self.addressing_mode))
                .attr("phone_number", hub.directory.user_jid(*account, AddressingMode::PhoneNumber))
                .attr("lid", hub.directory.user_jid(*account, AddressingMode::Lid));
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
                match self.addressing_mode {
                    AddressingMode::Lid => "lid",
                    AddressingMode::PhoneNumber => "pn",
                },
            );
        if let Some(owner) = owner {
            group = group.attr("creator", hub.directory.user_jid(owner, self.addressing_mode));
        }
        group.children(participants).build()
    }
}

/// Answers a query of the namespace `w:g2`.
pub fn answer(
    hub: &mut Registry,
    asker: DeviceId,
    query: &Node,
    seconds: u64,
    mail: &mut Vec<PhoneStanza>,
) -> Node {
    let Some(asked) = children(query).first() else { return error_iq(query, 400, "bad-request") };
    if let Some(answer) = group_members::answer(hub, asker, query, seconds, mail) {
        return answer;
    }
    match (attr(query, "type").as_ref(), asked.tag.as_ref()) {
        ("get", "query") => group_info(hub, asker, query),
        ("get", "participating") => {
            let own = hub.groups.iter().filter(|(_, group)| group.is_member(asker.account));
            let groups = own.map(|(id, group)| group.to_node(hub, id)).collect::<Vec<_>>();
            result_iq(query, [NodeBuilder::new("groups").children(groups).build()])
        }
        ("set", "create") => create_group(hub, asker, query, asked, seconds),
        ("set", "subject") => group_members::set_subject(hub, asker, query, asked),
        ("set", "leave") => {
            let mut left = Vec::new();
            for group in children(asked) {
                let id: Option<Jid> = attr(group, "id").parse().ok();
                if let Some(known) = id.and_then(|id| hub.groups.get_mut(id.user.as_str())) {
                    known.remove(asker.account);
                    left.push(group.clone());
                }
            }
            result_iq(query, [NodeBuilder::new("leave").children(left).build()])
        }
        _ => error_iq(query, 501, "feature-not-implemented"),
    }
}

fn group_info(hub: &Registry, asker: DeviceId, query: &Node) -> Node {
    let id = attr(query, "to").parse::<Jid>().ok();
    let found = id.as_ref().and_then(|id| hub.groups.get_key_value(id.user.as_str()));
    match found {
        Some((id, group)) if group.is_member(asker.account) => result_iq(query, [group.to_node(hub, id)]),
        Some(_) => error_iq(query, 403, "forbidden"),
        None => error_iq(query, 404, "item-not-found"),
    }
}

fn create_group(hub: &mut Registry, asker: DeviceId, query: &Node, asked: &Node, seconds: u64) -> Node {
    if hub.groups.len() >= MAX_GROUPS {
        return error_iq(query, 429, "rate-overlimit");
    }
    let wanted = asked.get_children_by_tag("participant");
    let others: Vec<AccountId> =
        wanted.filter_map(|participant| hub.directory.account_of(&jid_attr(participant, "jid")?)).collect();
    let id = insert_group(hub, Group::new(&attr(asked, "subject"), asker.account, &others, seconds));
    match hub.groups.get(id.user.as_str()) {
        Some(group) => result_iq(query, [group.to_node(hub, &id.user)]),
        None => error_iq(query, 500, "internal-server-error"),
    }
}

/// Takes a new group in, under an id of its own.
pub fn insert_group(hub: &mut Registry, group: Group) -> Jid {
    let id = format!("{}", 120_363_000_000_000_001_u64 + hub.groups.len() as u64);
    hub.groups.insert(id.as_str().into(), group);
    Jid::group(id)
}

/// Gives every device of a group but the sender's own the ciphertext that is common to all.
pub fn for_each_member_device(
    hub: &Registry,
    from: DeviceId,
    chat: &Jid,
    common: &[Node],
    mut share: impl FnMut(DeviceId, AddressingMode, Vec<Node>),
) {
    let Some(group) = hub.groups.get(chat.user.as_str()) else { return };
    for device in group.devices(hub).filter(|device| *device != from) {
        share(device, group.addressing_mode, common.to_vec());
    }
}

/// Adds to the acknowledgement of a group message the hash of the devices as the server knows them, when the
/// sender told the hash of those it sent to. A sender whose list is old asks for a new one.
pub fn with_participant_hash(
    hub: &Registry,
    from: DeviceId,
    stanza: &Node,
    to: &Jid,
    ack: NodeBuilder,
) -> NodeBuilder {
    let group = to.is_group().then(|| hub.groups.get(to.user.as_str())).flatten();
    let (Some(group), Some(_)) = (group, optional_attr(stanza, "phash")) else { return ack };
    let mut devices: Vec<Jid> = group
        .devices(hub)
        .filter(|device| *device != from)
        .map(|device| hub.directory.device_jid(device, group.addressing_mode))
        .collect();
    devices.push(hub.directory.device_jid(from, group.addressing_mode));
    match MessageUtils::participant_list_hash(devices.iter()) {
        Ok(hash) => ack.attr("phash", hash),
        Err(_) => ack,
    }
}
