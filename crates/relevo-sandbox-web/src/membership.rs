//! Members come into groups, go, and become admins; the others hear of it.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, DeviceId, Naming};
use crate::groups::Role;
use crate::hub::{Hub, Mail};
use crate::shared::Shared;
use crate::stanza::{children, error, jid, result};

/// What a query or a test wants of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Become(Role),
    Leave,
}

impl Wish {
    fn of(tag: &str) -> Option<Self> {
        Some(match tag {
            "add" | "demote" => Self::Become(Role::Member),
            "promote" => Self::Become(Role::Admin),
            "remove" => Self::Leave,
            _ => return None,
        })
    }
}

/// A wish about one member of one group.
struct Change<'a> {
    group: &'a Jid,
    /// Who wants it; the member itself when nobody else does.
    author: AccountId,
    subject: AccountId,
    wish: Wish,
    seconds: u64,
}

/// See [`WebHandle::admit`](crate::WebHandle::admit).
pub fn admit(shared: &Arc<Shared>, group: &Jid, account: AccountId, role: Role) -> bool {
    by_itself(shared, group, account, Wish::Become(role))
}

/// See [`WebHandle::dismiss`](crate::WebHandle::dismiss).
pub fn dismiss(shared: &Arc<Shared>, group: &Jid, account: AccountId) -> bool {
    by_itself(shared, group, account, Wish::Leave)
}

fn by_itself(shared: &Arc<Shared>, group: &Jid, account: AccountId, wish: Wish) -> bool {
    let mut mail = Vec::new();
    let change = Change { group, author: account, subject: account, wish, seconds: shared.seconds() };
    let done = change.make(&mut shared.hub(), &mut mail);
    shared.hand_out(mail);
    done
}

/// Answers `<add>`, `<remove>`, `<promote>` and `<demote>`, which admins may ask for.
pub fn answer(
    hub: &mut Hub,
    asker: DeviceId,
    query: &Node,
    seconds: u64,
    mail: &mut Vec<Mail>,
) -> Option<Node> {
    let asked = children(query).first()?;
    let wish = Wish::of(&asked.tag)?;
    let Some(id) = jid(query, "to") else { return Some(error(query, 400, "bad-request")) };
    match hub.groups.get(id.user.as_str()).map(|group| group.may_change(asker.account)) {
        Some(true) => {}
        Some(false) => return Some(error(query, 403, "forbidden")),
        None => return Some(error(query, 404, "item-not-found")),
    }
    let mut changed = Vec::new();
    for participant in asked.get_children_by_tag("participant") {
        let Some(jid) = jid(participant, "jid") else { continue };
        let answer = NodeBuilder::new("participant").attr("jid", &jid);
        let done = hub.directory.account_of(&jid).is_some_and(|subject| {
            Change { group: &id, author: asker.account, subject, wish, seconds }.make(hub, mail)
        });
        changed.push(if done { answer.build() } else { answer.attr("error", 404).build() });
    }
    let answer = NodeBuilder::new_dynamic(asked.tag.to_string()).children(changed).build();
    Some(result(query, [answer]))
}

impl Change<'_> {
    /// Grants the wish, and tells the members' devices, those of a dismissed member among them.
    fn make(&self, hub: &mut Hub, mail: &mut Vec<Mail>) -> bool {
        let Some(group) = hub.groups.get_mut(self.group.user.as_str()) else { return false };
        let mut concerned: Vec<AccountId> = group.members().collect();
        let tag = match self.wish {
            Wish::Become(role) => match (group.set(self.subject, role), role) {
                (true, _) => "add",
                (false, Role::Member) => "demote",
                (false, Role::Admin | Role::Owner) => "promote",
            },
            Wish::Leave if group.remove(self.subject) => "remove",
            Wish::Leave => return false,
        };
        if !concerned.contains(&self.subject) {
            concerned.push(self.subject);
        }
        let naming = group.naming;
        let notification = Arc::new(self.notification(hub, naming, tag));
        for account in concerned {
            let numbers: Vec<u16> = hub.directory.account(account).devices.keys().copied().collect();
            for number in numbers {
                hub.deliver(DeviceId { account, number }, Arc::clone(&notification), mail);
            }
        }
        true
    }

    fn notification(&self, hub: &mut Hub, naming: Naming, tag: &'static str) -> Node {
        let participant = NodeBuilder::new("participant")
            .attr("jid", hub.directory.user(self.subject, naming))
            .attr("phone_number", hub.directory.user(self.subject, Naming::PhoneNumber))
            .build();
        NodeBuilder::new("notification")
            .attr("from", self.group)
            .attr("participant", hub.directory.user(self.author, naming))
            .attr("type", "w:gp2")
            .attr("id", hub.next_id())
            .attr("t", self.seconds)
            .children([NodeBuilder::new(tag).children([participant]).build()])
            .build()
    }
}

/// Answers a change of the subject.
pub fn rename(hub: &mut Hub, asker: DeviceId, query: &Node, asked: &Node) -> Node {
    let group = jid(query, "to").and_then(|id| hub.groups.get_mut(id.user.as_str()));
    let Some(group) = group else { return error(query, 404, "item-not-found") };
    match asked.content_as_string() {
        Some(subject) if group.may_change(asker.account) => {
            group.subject = subject.to_string();
            result(query, [])
        }
        Some(_) => error(query, 403, "forbidden"),
        None => error(query, 400, "bad-request"),
    }
}
