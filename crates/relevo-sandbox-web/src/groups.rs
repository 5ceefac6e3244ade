//! Groups: members, metadata, and the distribution of group messages.

use std::collections::BTreeMap;

use relevo_linked_device::client::wacore::messages::MessageUtils;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::group_members;
use crate::registry::{PhoneStanza, Registry};
use crate::stanza::{attr, children, error_iq, jid_attr, optional_attr, result_iq};

/// Maximum number of groups that clients can create.
const MAX_GROUPS: usize = 10_000;

/// The role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May send messages.
    Member,
    /// May also change the members and the subject.
    Admin,
    /// Created the group; has the rights of an admin.
    Owner,
}

/// A group.
#[derive(Debug, Clone)]
pub struct Group {
    pub subject: String,
    /// The addressing mode of the members in the group.
    pub addressing_mode: AddressingMode,
    pub created: u64,
    members: BTreeMap<AccountId, Role>,
}

impl Group {
    /// A group with its owner and other members.
    pub fn new(subject: &str, owner: AccountId, others: &[AccountId], created: u64) -> Self {
        let mut members: BTreeMap<AccountId, Role> =
            others.iter().map(|account| (*account, Role::Member)).collect();
        members.insert(owner, Role::Owner);
        Self { subject: subject.to_owned(), addressing_mode: AddressingMode::Lid, created, members }
    }

    /// Whether an account is a member.
    pub fn is_member(&self, account: AccountId) -> bool {
        self.members.contains_key(&account)
    }

    /// Whether an account is an admin or the owner.
    pub fn is_admin(&self, account: AccountId) -> bool {
        self.members.get(&account).is_some_and(|role| *role != Role::Member)
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = AccountId> {
        self.members.keys().copied()
    }

    /// Adds a member or changes its role. Returns true when the account was not a member.
    pub fn set_role(&mut self, account: AccountId, role: Role) -> bool {
        self.members.insert(account, role).is_none()
    }

    /// Removes a member. Returns false when the account was not a member.
    pub fn remove(&mut self, account: AccountId) -> bool {
        self.members.remove(&account).is_some()
    }

    /// All devices of all members.
    pub fn devices<'a>(&'a self, registry: &'a Registry) -> impl Iterator<Item = DeviceId> {
        self.members().flat_map(|account| {
            registry
                .directory
                .account(account)
                .device_numbers()
                .map(move |number| DeviceId { account, number })
        })
    }

    /// `<group>` with all metadata.
    fn to_node(&self, registry: &Registry, id: &str) -> Node {
        let participants = self.members.iter().map(|(account, role)| {
            let participant = NodeBuilder::new("participant")
                .attr("jid", registry.directory.user_jid(*account, self.addressing_mode))
                .attr("phone_number", registry.directory.user_jid(*account, AddressingMode::PhoneNumber))
                .attr("lid", registry.directory.user_jid(*account, AddressingMode::Lid));
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
            group = group.attr("creator", registry.directory.user_jid(owner, self.addressing_mode));
        }
        group.children(participants).build()
    }
}

/// Answers a query of the namespace `w:g2`.
pub fn answer(
    registry: &mut Registry,
    asker: DeviceId,
    query: &Node,
    seconds: u64,
    phone_stanzas: &mut Vec<PhoneStanza>,
) -> Node {
    let Some(request) = children(query).first() else { return error_iq(query, 400, "bad-request") };
    if let Some(answer) = group_members::answer(registry, asker, query, seconds, phone_stanzas) {
        return answer;
    }
    match (attr(query, "type").as_ref(), request.tag.as_ref()) {
        ("get", "query") => group_info(registry, asker, query),
        ("get", "participating") => {
            let own = registry.groups.iter().filter(|(_, group)| group.is_member(asker.account));
            let groups = own.map(|(id, group)| group.to_node(registry, id)).collect::<Vec<_>>();
            result_iq(query, [NodeBuilder::new("groups").children(groups).build()])
        }
        ("set", "create") => create_group(registry, asker, query, request, seconds),
        ("set", "subject") => group_members::set_subject(registry, asker, query, request),
        ("set", "leave") => {
            let mut left = Vec::new();
            for group in children(request) {
                let id: Option<Jid> = attr(group, "id").parse().ok();
                if let Some(known) = id.and_then(|id| registry.groups.get_mut(id.user.as_str())) {
                    known.remove(asker.account);
                    left.push(group.clone());
                }
            }
            result_iq(query, [NodeBuilder::new("leave").children(left).build()])
        }
        _ => error_iq(query, 501, "feature-not-implemented"),
    }
}

fn group_info(registry: &Registry, asker: DeviceId, query: &Node) -> Node {
    let id = attr(query, "to").parse::<Jid>().ok();
    let found = id.as_ref().and_then(|id| registry.groups.get_key_value(id.user.as_str()));
    match found {
        Some((id, group)) if group.is_member(asker.account) => {
            result_iq(query, [group.to_node(registry, id)])
        }
        Some(_) => error_iq(query, 403, "forbidden"),
        None => error_iq(query, 404, "item-not-found"),
    }
}

fn create_group(registry: &mut Registry, asker: DeviceId, query: &Node, asked: &Node, seconds: u64) -> Node {
    if registry.groups.len() >= MAX_GROUPS {
        return error_iq(query, 429, "rate-overlimit");
    }
    let wanted = asked.get_children_by_tag("participant");
    let others: Vec<AccountId> = wanted
        .filter_map(|participant| registry.directory.account_of(&jid_attr(participant, "jid")?))
        .collect();
    let id = insert_group(registry, Group::new(&attr(asked, "subject"), asker.account, &others, seconds));
    match registry.groups.get(id.user.as_str()) {
        Some(group) => result_iq(query, [group.to_node(registry, &id.user)]),
        None => error_iq(query, 500, "internal-server-error"),
    }
}

/// Stores a new group under a new id.
pub fn insert_group(registry: &mut Registry, group: Group) -> Jid {
    let id = format!("{}", 120_363_000_000_000_001_u64 + registry.groups.len() as u64);
    registry.groups.insert(id.as_str().into(), group);
    Jid::group(id)
}

/// Calls `share` with the common ciphertext for every device of a group except the sender's.
pub fn for_each_member_device(
    registry: &Registry,
    from: DeviceId,
    chat: &Jid,
    common: &[Node],
    mut share: impl FnMut(DeviceId, AddressingMode, Vec<Node>),
) {
    let Some(group) = registry.groups.get(chat.user.as_str()) else { return };
    for device in group.devices(registry).filter(|device| *device != from) {
        share(device, group.addressing_mode, common.to_vec());
    }
}

/// Adds the hash of the group's devices to the acknowledgement of a group message, when the sender included the hash
/// of its own device list. A sender with an outdated list requests a new one.
pub fn with_participant_hash(
    registry: &Registry,
    from: DeviceId,
    stanza: &Node,
    to: &Jid,
    ack: NodeBuilder,
) -> NodeBuilder {
    let group = to.is_group().then(|| registry.groups.get(to.user.as_str())).flatten();
    let (Some(group), Some(_)) = (group, optional_attr(stanza, "phash")) else { return ack };
    let mut devices: Vec<Jid> = group
        .devices(registry)
        .filter(|device| *device != from)
        .map(|device| registry.directory.device_jid(device, group.addressing_mode))
        .collect();
    devices.push(registry.directory.device_jid(from, group.addressing_mode));
    match MessageUtils::participant_list_hash(devices.iter()) {
        Ok(hash) => ack.attr("phash", hash),
        Err(_) => ack,
    }
}
