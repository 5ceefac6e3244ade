//! `usync` queries: which users have an account, with which LID and which devices.

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;

use crate::accounts::{AccountId, AddressingMode};
use crate::device_list;
use crate::registry::Registry;
use crate::stanza::{attr, children, error_iq, jid_attr, result_iq};

/// Answers a query about one or more users.
pub fn answer(registry: &Registry, query: &Node, seconds: u64) -> Node {
    let Some(request) = query.get_optional_child("usync") else { return error_iq(query, 400, "bad-request") };
    let protocols = request.get_optional_child("query");
    let wants = |tag: &str| protocols.is_some_and(|protocols| protocols.get_optional_child(tag).is_some());
    let users = request.get_optional_child("list").map(children).unwrap_or_default();
    let users: Vec<Node> =
        users.iter().filter_map(|user| user_node(registry, user, &wants, seconds)).collect();
    let answer = NodeBuilder::new("usync")
        .attr("sid", attr(request, "sid").as_ref())
        .attr("index", attr(request, "index").as_ref())
        .attr("last", "true")
        .attr("mode", attr(request, "mode").as_ref())
        .attr("context", attr(request, "context").as_ref())
        .children([NodeBuilder::new("result").build(), NodeBuilder::new("list").children(users).build()]);
    result_iq(query, [answer.build()])
}

fn user_node(registry: &Registry, user: &Node, wants: &impl Fn(&str) -> bool, seconds: u64) -> Option<Node> {
    let jid = queried_jid(user)?;
    let account = registry.directory.account_of(&jid);
    let mut answer = NodeBuilder::new("user").attr("jid", jid.to_non_ad());
    let mut fields = Vec::new();
    if wants("contact") {
        let contact = NodeBuilder::new("contact").attr("type", if account.is_some() { "in" } else { "out" });
        fields.push(contact.build());
    }
    if let Some(account) = account {
        answer = answer.attr("pn_jid", registry.directory.user_jid(account, AddressingMode::PhoneNumber));
        fields.extend(account_fields(registry, account, wants, seconds));
    }
    Some(answer.children(fields).build())
}

fn account_fields(
    registry: &Registry,
    account: AccountId,
    wants: &impl Fn(&str) -> bool,
    seconds: u64,
) -> Vec<Node> {
    let mut fields = Vec::new();
    if wants("lid") {
        fields.push(
            NodeBuilder::new("lid")
                .attr("val", registry.directory.user_jid(account, AddressingMode::Lid))
                .build(),
        );
    }
    if wants("devices") {
        fields.push(device_list::devices_node(registry, account, seconds));
    }
    fields
}

/// The user of a query: by address, or by a phone number with any punctuation.
fn queried_jid(user: &Node) -> Option<Jid> {
    if let Some(jid) = jid_attr(user, "jid") {
        return Some(jid);
    }
    let number = user.get_optional_child("contact")?.content_as_string()?;
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    Some(Jid::pn(digits))
}
