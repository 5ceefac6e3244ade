//! Changes of group members and the subject, and notifications of them.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::groups::Role;
use crate::registry::{PhoneStanza, Registry};
use crate::server_state::ServerState;
use crate::stanza::{children, error_iq, jid_attr, result_iq};

/// A change of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberAction {
    SetRole(Role),
    Remove,
}

impl MemberAction {
    fn from_tag(tag: &str) -> Option<Self> {
        Some(match tag {
            "add" | "demote" => Self::SetRole(Role::Member),
            "promote" => Self::SetRole(Role::Admin),
            "remove" => Self::Remove,
            _ => return None,
        })
    }
}

/// A change of one member of one group.
struct MemberChange<'a> {
    group: &'a Jid,
    /// The account that requested the change; the member itself when a test requested it.
    author: AccountId,
    subject: AccountId,
    action: MemberAction,
    seconds: u64,
}

/// See [`WebHandle::add_group_member`](crate::WebHandle::add_group_member).
pub fn add_member(shared: &Arc<ServerState>, group: &Jid, account: AccountId, role: Role) -> bool {
    apply_as_member(shared, group, account, MemberAction::SetRole(role))
}

/// See [`WebHandle::remove_group_member`](crate::WebHandle::remove_group_member).
pub fn remove_member(shared: &Arc<ServerState>, group: &Jid, account: AccountId) -> bool {
    apply_as_member(shared, group, account, MemberAction::Remove)
}

fn apply_as_member(shared: &Arc<ServerState>, group: &Jid, account: AccountId, action: MemberAction) -> bool {
    let mut phone_stanzas = Vec::new();
    let change = MemberChange { group, author: account, subject: account, action, seconds: shared.seconds() };
    let done = change.apply(&mut shared.registry(), &mut phone_stanzas);
    shared.deliver_to_phones(phone_stanzas);
    done
}

/// Answers `<add>`, `<remove>`, `<promote>` and `<demote>`, which require an admin.
pub fn answer(
    registry: &mut Registry,
    asker: DeviceId,
    query: &Node,
    seconds: u64,
    phone_stanzas: &mut Vec<PhoneStanza>,
) -> Option<Node> {
    let request = children(query).first()?;
    let action = MemberAction::from_tag(&request.tag)?;
    let Some(id) = jid_attr(query, "to") else { return Some(error_iq(query, 400, "bad-request")) };
    match registry.groups.get(id.user.as_str()).map(|group| group.is_admin(asker.account)) {
        Some(true) => {}
        Some(false) => return Some(error_iq(query, 403, "forbidden")),
        None => return Some(error_iq(query, 404, "item-not-found")),
    }
    let mut changed = Vec::new();
    for participant in request.get_children_by_tag("participant") {
        let Some(jid) = jid_attr(participant, "jid") else { continue };
        let answer = NodeBuilder::new("participant").attr("jid", &jid);
        let done = registry.directory.account_of(&jid).is_some_and(|subject| {
            MemberChange { group: &id, author: asker.account, subject, action, seconds }
                .apply(registry, phone_stanzas)
        });
        changed.push(if done { answer.build() } else { answer.attr("error", 404).build() });
    }
    let answer = NodeBuilder::new_dynamic(request.tag.to_string()).children(changed).build();
    Some(result_iq(query, [answer]))
}

impl MemberChange<'_> {
    /// Applies the change and notifies the members' devices, including those of a removed member.
    fn apply(&self, registry: &mut Registry, phone_stanzas: &mut Vec<PhoneStanza>) -> bool {
        let Some(group) = registry.groups.get_mut(self.group.user.as_str()) else { return false };
        let mut recipients: Vec<AccountId> = group.members().collect();
        let tag = match self.action {
            MemberAction::SetRole(role) => match (group.set_role(self.subject, role), role) {
                (true, _) => "add",
                (false, Role::Member) => "demote",
                (false, Role::Admin | Role::Owner) => "promote",
            },
            MemberAction::Remove if group.remove(self.subject) => "remove",
            MemberAction::Remove => return false,
        };
        if !recipients.contains(&self.subject) {
            recipients.push(self.subject);
        }
        let addressing = group.addressing_mode;
        let notification = Arc::new(self.notification(registry, addressing, tag));
        for account in recipients {
            let numbers: Vec<u16> = registry.directory.account(account).devices.keys().copied().collect();
            for number in numbers {
                registry.deliver(DeviceId { account, number }, Arc::clone(&notification), phone_stanzas);
            }
        }
        true
    }

    fn notification(&self, registry: &mut Registry, addressing: AddressingMode, tag: &'static str) -> Node {
        let participant = NodeBuilder::new("participant")
            .attr("jid", registry.directory.user_jid(self.subject, addressing))
            .attr("phone_number", registry.directory.user_jid(self.subject, AddressingMode::PhoneNumber))
            .build();
        NodeBuilder::new("notification")
            .attr("from", self.group)
            .attr("participant", registry.directory.user_jid(self.author, addressing))
            .attr("type", "w:gp2")
            .attr("id", registry.next_id())
            .attr("t", self.seconds)
            .children([NodeBuilder::new(tag).children([participant]).build()])
            .build()
    }
}

/// Answers a request to change the subject.
pub fn set_subject(registry: &mut Registry, asker: DeviceId, query: &Node, request: &Node) -> Node {
    let group = jid_attr(query, "to").and_then(|id| registry.groups.get_mut(id.user.as_str()));
    let Some(group) = group else { return error_iq(query, 404, "item-not-found") };
    match request.content_as_string() {
        Some(subject) if group.is_admin(asker.account) => {
            group.subject = subject.to_string();
            result_iq(query, [])
        }
        Some(_) => error_iq(query, 403, "forbidden"),
        None => error_iq(query, 400, "bad-request"),
    }
}
