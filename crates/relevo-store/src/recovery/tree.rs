//! The tree: its leaves from left to right.
//!
//! Splits and merges take several messages, and a crash can fall between them. Each leaf names its right neighbour, and
//! sled changes that name in the message that changes the leaf's contents. The chain of leaves is therefore complete and
//! without repetition at every moment, whatever the index above it knows.

use std::collections::HashSet;
use std::io;

use super::RecoveryError;
use super::pages::{Node, NodeData, PageFile};

/// What is called with the key and the value of each entry that is salvaged.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'a;

/// Number of levels above which an index is taken for damaged.
const MAX_LEVELS: usize = 64;

/// What could be read of a damaged tree.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Salvaged {
    /// Pages that are in use and cannot be read.
    pub unreadable_pages: u64,
}

/// Calls `visit` for every entry, in key order.
pub(super) fn read_all(pages: &PageFile, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), RecoveryError> {
    let Some(root) = pages.root()? else { return Ok(()) };
    let mut leaf = leftmost_leaf(pages, root)?;
    let mut key = Vec::new();
    loop {
        let NodeData::Leaf(entries) = &leaf.data else {
            return Err(RecoveryError::damaged("the chain of leaves has a page that is no leaf"));
        };
        for (rest, value) in entries {
            key.clear();
            key.extend_from_slice(leaf.prefix());
            key.extend_from_slice(rest);
            visit(&key, value);
        }
        if leaf.high.is_empty() {
            return Ok(());
        }
        let next = leaf.next.map(|next| pages.node(next)).transpose()?;
        leaf = match next {
            Some(next) if next.low == leaf.high && next.low > leaf.low => next,
            _ => return Err(RecoveryError::damaged("the chain of leaves is interrupted")),
        };
    }
}

/// Descends to the leftmost leaf, and checks on the way that all children of the index exist. The leftmost child of a
/// node is never merged.
fn leftmost_leaf(pages: &PageFile, root: u64) -> Result<Node, RecoveryError> {
    let mut level = vec![root];
    for _ in 0..MAX_LEVELS {
        let Some(&first) = level.first() else { break };
        let first = pages.node(first)?;
        if matches!(first.data, NodeData::Leaf(_)) {
            return Ok(first);
        }
        let mut below = Vec::new();
        for &page in &level {
            let node = pages.node(page)?;
            let NodeData::Index(children) = node.data else {
                return Err(RecoveryError::damaged("the levels of the index are mixed"));
            };
            for child in children {
                if pages.is_present(child) {
                    below.push(child);
                } else if node.merging_child != Some(child) {
                    return Err(RecoveryError::damaged(format!("the page {child} is in use and missing")));
                }
            }
        }
        level = below;
    }
    Err(RecoveryError::damaged("the index has no leaves"))
}

/// Calls `visit` for every entry of every page that can be reached and read. Pages that are being merged come last, because
/// their left neighbour may have newer values.
pub(super) fn salvage(pages: &PageFile, visit: &mut Visit<'_>) -> Result<Salvaged, RecoveryError> {
    let mut salvaged = Salvaged::default();
    let root = match pages.root() {
        Err(RecoveryError::Damaged(_)) => {
            salvaged.unreadable_pages += 1;
            None
        }
        root => root?,
    };
    let (mut open, mut merging) = (Vec::from_iter(root), Vec::new());
    let mut seen: HashSet<u64> = root.into_iter().collect();
    while let Some(page) = open.pop() {
        let node = match pages.node(page) {
            Err(RecoveryError::Damaged(_)) => {
                salvaged.unreadable_pages += 1;
                continue;
            }
            node => node?,
        };
        let children = if let NodeData::Index(children) = &node.data { children.as_slice() } else { &[] };
        open.extend(children.iter().copied().chain(node.next).filter(|page| seen.insert(*page)));
        if node.is_merging { merging.push(node) } else { visit_leaf(&node, visit)? }
    }
    for node in merging {
        visit_leaf(&node, visit)?;
    }
    Ok(salvaged)
}

fn visit_leaf(node: &Node, visit: &mut Visit<'_>) -> io::Result<()> {
    let NodeData::Leaf(entries) = &node.data else { return Ok(()) };
    entries.iter().try_for_each(|(rest, value)| visit(&[node.prefix(), rest].concat(), value))
}
