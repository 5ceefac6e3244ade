//! Helpers to read stanzas and to build common answers.

use std::borrow::Cow;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::{Node, NodeContent};
use relevo_linked_device::client::wacore_binary::{Jid, SERVER_JID};

/// An attribute as text; empty when it is absent.
pub fn attr<'a>(node: &'a Node, key: &str) -> Cow<'a, str> {
    node.attrs.get(key).map(|value| value.as_str()).unwrap_or_default()
}

/// An attribute as text; `None` when it is absent.
pub fn optional_attr<'a>(node: &'a Node, key: &str) -> Option<Cow<'a, str>> {
    node.attrs.get(key).map(|value| value.as_str())
}

/// An attribute as an address; `None` when it is absent or not an address.
pub fn jid_attr(node: &Node, key: &str) -> Option<Jid> {
    node.attrs.get(key)?.to_jid()
}

/// The content of a node as bytes.
pub fn content_bytes(node: &Node) -> Option<&[u8]> {
    match node.content.as_ref()? {
        NodeContent::Bytes(bytes) => Some(bytes),
        NodeContent::String(text) => Some(text.as_bytes()),
        NodeContent::Nodes(_) => None,
    }
}

/// The child nodes; empty when there are none.
pub fn children(node: &Node) -> &[Node] {
    node.children().unwrap_or_default()
}

/// The bytes of the child `tag`.
pub fn child_bytes<'a>(node: &'a Node, tag: &str) -> Option<&'a [u8]> {
    node.get_optional_child(tag).and_then(content_bytes)
}

/// A big-endian number of one to four bytes.
pub fn parse_be_u32(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    Some(bytes.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
}

/// `<tag>bytes</tag>`.
pub fn bytes_node(tag: &'static str, bytes: impl Into<Vec<u8>>) -> Node {
    NodeBuilder::new(tag).bytes(bytes).build()
}

/// The successful answer to a query.
pub fn result_iq(query: &Node, children: impl IntoIterator<Item = Node>) -> Node {
    let mut children = children.into_iter().peekable();
    let answer = NodeBuilder::new("iq")
        .attr("from", response_sender(query))
        .attr("type", "result")
        .attr("id", attr(query, "id").as_ref());
    if children.peek().is_none() { answer.build() } else { answer.children(children).build() }
}

/// The error answer to a query.
pub fn error_iq(query: &Node, code: u16, text: &str) -> Node {
    let error = NodeBuilder::new("error").attr("code", code).attr("text", text).build();
    NodeBuilder::new("iq")
        .attr("from", response_sender(query))
        .attr("type", "error")
        .attr("id", attr(query, "id").as_ref())
        .children([error])
        .build()
}

/// The sender of an answer: the addressee of the query.
fn response_sender(query: &Node) -> String {
    match optional_attr(query, "to") {
        Some(to) if !to.is_empty() => to.into_owned(),
        _ => SERVER_JID.to_owned(),
    }
}

/// `<ib>`: information that requires no answer.
pub fn ib_stanza(child: Node) -> Node {
    NodeBuilder::new("ib").attr("from", SERVER_JID).children([child]).build()
}

/// A copy of a stanza with an additional attribute.
pub fn with_attr(stanza: &Node, key: &'static str, value: impl Into<String>) -> Node {
    let mut copy = stanza.clone();
    copy.attrs.insert(key, value.into());
    copy
}
