//! Members come into groups, go, and become admins; the others hear of it.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::groups::Role;
use crate::registry::{PhoneStanza, Registry};
use crate::server_state::ServerState;
use crate::stanza::{children, error_iq, jid_attr, result_iq};

/// What a query or a test wants of a group.
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

/// A wish about one member of one group.
struct MemberChange<'a> {
    group: &'a Jid,
    /// Who wants it; the member itself when nobody else does.
    author: AccountId,
    subject: AccountId,
    action: MemberAction,
    seconds: u64,
}

/// See [`WebHandle::admit`](crate::WebHandle::admit).
pub fn add_member(shared: &Arc<ServerState>, group: &Jid, account: AccountId, role: Role) -> bool {
    apply_as_member(shared, group, account, MemberAction::SetRole(role))
}

/// See [`WebHandle::dismiss`](crate::WebHandle::dismiss).
pub fn remove_member(shared: &Arc<ServerState>, group: &Jid, account: AccountId) -> bool {
    apply_as_member(shared, group, account, MemberAction::Remove)
}

fn apply_as_member(shared: &Arc<ServerState>, group: &Jid, account: AccountId, wish: MemberAction) -> bool {
    let mut mail = Vec::new();
    let change =
        MemberChange { group, author: account, subject: account, action: wish, seconds: shared.seconds() };
    let done = change.apply(&mut shared.registry(), &mut mail);
    shared.deliver_to_phones(mail);
    done
}

/// Answers `<add>`, `<remove>`, `<promote>` and `<demote>`, which admins may ask for.
pub fn answer(
    hub: &mut Registry,
    asker: DeviceId,
    query: &Node,
    seconds: u64,
    mail: &mut Vec<PhoneStanza>,
) -> Option<Node> {
    let asked = children(query).first()?;
    let wish = MemberAction::from_tag(&asked.tag)?;
    let Some(id) = jid_attr(query, "to") else { return Some(error_iq(query, 400, "bad-request")) };
    match hub.groups.get(id.user.as_str()).map(|group| group.is_admin(asker.account)) {
        Some(true) => {}
        Some(false) => return Some(error_iq(query, 403, "forbidden")),
        None => return Some(error_iq(query, 404, "item-not-found")),
    }
    let mut changed = Vec::new();
    for participant in asked.get_children_by_tag("participant") {
        let Some(jid) = jid_attr(participant, "jid") else { continue };
        let answer = NodeBuilder::new("participant").attr("jid", &jid);
        let done = hub.directory.account_of(&jid).is_some_and(|subject| {
            MemberChange { group: &id, author: asker.account, subject, action: wish, seconds }
                .apply(hub, mail)
        });
        changed.push(if done { answer.build() } else { answer.attr("error", 404).build() });
    }
    let answer = NodeBuilder::new_dynamic(asked.tag.to_string()).children(changed).build();
    Some(result_iq(query, [answer]))
}

impl MemberChange<'_> {
    /// Grants the wish, and tells the members' devices, those of a dismissed member among them.
    fn apply(&self, hub: &mut Registry, mail: &mut Vec<PhoneStanza>) -> bool {
        let Some(group) = hub.groups.get_mut(self.group.user.as_str()) else { return false };
        let mut concerned: Vec<AccountId> = group.members().collect();
        let tag = match self.action {
            MemberAction::SetRole(role) => match (group.set_role(self.subject, role), role) {
                (true, _) => "add",
                (false, Role::Member) => "demote",
                (false, Role::Admin | Role::Owner) => "promote",
            },
            MemberAction::Remove if group.remove(self.subject) => "remove",
            MemberAction::Remove => return false,
        };
        if !concerned.contains(&self.subject) {
            concerned.push(self.subject);
        }
        let naming = group.addressing_mode;
        let notification = Arc::new(self.notification(hub, naming, tag));
        for account in concerned {
            let numbers: Vec<u16> = hub.directory.account(account).devices.keys().copied().collect();
            for number in numbers {
                hub.deliver(DeviceId { account, number }, Arc::clone(&notification), mail);
            }
        }
        true
    }

    fn notification(&self, hub: &mut Registry, naming: AddressingMode, tag: &'static str) -> Node {
        let participant = NodeBuilder::new("participant")
            .attr("jid", hub.directory.user_jid(self.subject, naming))
            .attr("phone_number", hub.directory.user_jid(self.subject, AddressingMode::PhoneNumber))
            .build();
        NodeBuilder::new("notification")
            .attr("from", self.group)
            .attr("participant", hub.directory.user_jid(self.author, naming))
            .attr("type", "w:gp2")
            .attr("id", hub.next_id())
            .attr("t", self.seconds)
            .children([NodeBuilder::new(tag).children([participant]).build()])
            .build()
    }
}

/// Answers a change of the subject.
pub fn set_subject(hub: &mut Registry, asker: DeviceId, query: &Node, asked: &Node) -> Node {
    let group = jid_attr(query, "to").and_then(|id| hub.groups.get_mut(id.user.as_str()));
    let Some(group) = group else { return error_iq(query, 404, "item-not-found") };
    match asked.content_as_string() {
        Some(subject) if group.is_admin(asker.account) => {
            group.subject = subject.to_string();
            result_iq(query, [])
        }
        Some(_) => error_iq(query, 403, "forbidden"),
        None => error_iq(query, 400, "bad-request"),
    }
}
