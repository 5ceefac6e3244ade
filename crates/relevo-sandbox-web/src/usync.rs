//! `usync`: who has an account, under which LID, and with which devices.

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, AddressingMode};
use crate::device_list;
use crate::registry::Registry;
use crate::stanza::{attr, children, error_iq, jid_attr, result_iq};

/// Answers one query about many users.
pub fn answer(hub: &Registry, query: &Node, seconds: u64) -> Node {
    let Some(asked) = query.get_optional_child("usync") else { return error_iq(query, 400, "bad-request") };
    let wanted = asked.get_optional_child("query");
    let wants = |tag: &str| wanted.is_some_and(|wanted| wanted.get_optional_child(tag).is_some());
    let users = asked.get_optional_child("list").map(children).unwrap_or_default();
    let users: Vec<Node> = users.iter().filter_map(|user| user_node(hub, user, &wants, seconds)).collect();
    let answer = NodeBuilder::new("usync")
        .attr("sid", attr(asked, "sid").as_ref())
        .attr("index", attr(asked, "index").as_ref())
        .attr("last", "true")
        .attr("mode", attr(asked, "mode").as_ref())
        .attr("context", attr(asked, "context").as_ref())
        .children([NodeBuilder::new("result").build(), NodeBuilder::new("list").children(users).build()]);
    result_iq(query, [answer.build()])
}

fn user_node(hub: &Registry, user: &Node, wants: &impl Fn(&str) -> bool, seconds: u64) -> Option<Node> {
    let named = queried_jid(user)?;
    let account = hub.directory.account_of(&named);
    let mut answer = NodeBuilder::new("user").attr("jid", named.to_non_ad());
    let mut facts = Vec::new();
    if wants("contact") {
        let contact = NodeBuilder::new("contact").attr("type", if account.is_some() { "in" } else { "out" });
        facts.push(contact.build());
    }
    if let Some(account) = account {
        answer = answer.attr("pn_jid", hub.directory.user_jid(account, AddressingMode::PhoneNumber));
        facts.extend(account_fields(hub, account, wants, seconds));
    }
    Some(answer.children(facts).build())
}

fn account_fields(
    hub: &Registry,
    account: AccountId,
    wants: &impl Fn(&str) -> bool,
    seconds: u64,
) -> Vec<Node> {
    let mut facts = Vec::new();
    if wants("lid") {
        facts.push(
            NodeBuilder::new("lid").attr("val", hub.directory.user_jid(account, AddressingMode::Lid)).build(),
        );
    }
    if wants("devices") {
        facts.push(device_list::devices_node(hub, account, seconds));
    }
    facts
}

/// Whom a query names: by address, or by a number as people write it.
fn queried_jid(user: &Node) -> Option<Jid> {
    if let Some(jid) = jid_attr(user, "jid") {
        return Some(jid);
    }
    let number = user.get_optional_child("contact")?.content_as_string()?;
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    Some(Jid::pn(digits))
}
