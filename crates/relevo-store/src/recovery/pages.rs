//! Pages: reading their messages, and decoding them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::RecoveryError;
use super::format::{HeaderWindow, MessageKind, Reader, SEGMENT_SIZE, segment_number};
use super::log::read_up_to;
use super::page_table::PageTable;
use super::snapshot::{Location, PageState, read_blob};

/// The page that names the root of every tree.
const META_PAGE: u64 = 0;

/// The page that holds sled's generator of numbers. sled reads it when it opens the folder.
const COUNTER_PAGE: u64 = 1;

/// The tree that the store uses.
const TREE: &[u8] = b"__sled__default";

/// The file with its page table.
pub(super) struct PageFile<'a> {
    file: &'a File,
    db: &'a Path,
    table: &'a PageTable,
}

/// A node of the tree.
pub(super) struct Node {
    /// The node to the right on the same level.
    pub next: Option<u64>,
    /// The child that is being merged into its left neighbour.
    pub merging_child: Option<u64>,
    /// The node is being merged into its left neighbour.
    pub is_merging: bool,
    /// The smallest key that belongs here.
    pub low: Vec<u8>,
    /// The smallest key that belongs to the right; empty when there is none.
    pub high: Vec<u8>,
    /// The start of `low` that the keys of the entries leave out.
    prefix_len: usize,
    pub data: NodeData,
}

pub(super) enum NodeData {
    /// Entries by key, without the prefix.
    Leaf(BTreeMap<Vec<u8>, Vec<u8>>),
    /// The pages of the children, from left to right.
    Index(Vec<u64>),
}

impl Node {
    /// The prefix that the keys of a leaf leave out.
    pub fn prefix(&self) -> &[u8] {
        self.low.get(..self.prefix_len).unwrap_or_default()
    }
}

impl<'a> PageFile<'a> {
    pub fn new(file: &'a File, db: &'a Path, table: &'a PageTable) -> Self {
        Self { file, db, table }
    }

    /// The root of the store's tree; none in an empty database.
    pub fn root(&self) -> Result<Option<u64>, RecoveryError> {
        if self.table.is_empty() {
            return Ok(None);
        }
        if let Some(PageState::Present { base, .. }) = self.table.get(COUNTER_PAGE) {
            self.message(COUNTER_PAGE, base, MessageKind::Counter)?;
        }
        let Some(PageState::Present { base, .. }) = self.table.get(META_PAGE) else {
            return Err(RecoveryError::damaged("the page that names the trees is missing"));
        };
        let meta = self.message(META_PAGE, base, MessageKind::Meta)?;
        let mut reader = Reader::new(&meta);
        while !reader.is_empty() {
            let (Some(name), Some(page)) = (reader.counted_bytes(), reader.varint()) else {
                return Err(undecodable(META_PAGE));
            };
            if name == TREE {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// Whether a page is in use.
    pub fn is_present(&self, page: u64) -> bool {
        matches!(self.table.get(page), Some(PageState::Present { .. }))
    }

    /// Reads a node with all changes that were appended to it.
    pub fn node(&self, page: u64) -> Result<Node, RecoveryError> {
        let Some(PageState::Present { base, links }) = self.table.get(page) else {
            return Err(RecoveryError::damaged(format!("the page {page} is in use and missing")));
        };
        let bytes = self.message(page, base, MessageKind::Node)?;
        let mut node = decode_node(&bytes).ok_or_else(|| undecodable(page))?;
        for link in links {
            let bytes = self.message(page, link, MessageKind::Link)?;
            apply_link(&mut node, &bytes).ok_or_else(|| undecodable(page))?;
        }
        Ok(node)
    }

    /// Reads and verifies a message of a page.
    fn message(&self, page: u64, at: &Location, kind: MessageKind) -> Result<Vec<u8>, RecoveryError> {
        let damaged = || {
            RecoveryError::damaged(format!(
                "a part of the page {page}, at {} of the file, is damaged",
                at.offset
            ))
        };
        if let Some(number) = at.blob {
            return read_blob(self.db, number)?
                .ok_or_else(|| RecoveryError::damaged(format!("the file blobs/{number} is missing")));
        }
        let mut start = [0; 128];
        let count = read_up_to(self.file, &mut start, at.offset)?;
        let window = HeaderWindow::new(start.get(..count).unwrap_or_default());
        let header = window.header().ok_or_else(damaged)?;
        let is_expected = header.kind == kind
            && !header.is_blob
            && header.page == page
            && header.segment_number == segment_number(at.lsn)
            && header.body_len < SEGMENT_SIZE;
        if !is_expected {
            return Err(damaged());
        }
        let body = match window.body(&header) {
            Some(body) => body.to_vec(),
            None => {
                let mut body = vec![0; usize::try_from(header.body_len).map_err(|_| damaged())?];
                match self.file.read_exact_at(&mut body, at.offset + header.len as u64) {
                    Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => return Err(damaged()),
                    read => read?,
                }
                body
            }
        };
        if window.verify(&header, &body) { Ok(body) } else { Err(damaged()) }
    }
}

fn undecodable(page: u64) -> RecoveryError {
    RecoveryError::damaged(format!("the page {page} cannot be decoded"))
}

fn decode_node(bytes: &[u8]) -> Option<Node> {
    let mut reader = Reader::new(bytes);
    let page = |number: u64| (number != 0).then_some(number);
    let (next, merging_child) = (page(reader.varint()?), page(reader.varint()?));
    let (is_merging, prefix_len) = (reader.u8()? != 0, usize::from(reader.u8()?));
    let (low, high) = (reader.counted_bytes()?.to_vec(), reader.counted_bytes()?.to_vec());
    let is_index = reader.u8()? == 1;
    let count = usize::try_from(reader.varint()?).ok()?;
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(reader.counted_bytes()?);
    }
    let data = if is_index {
        NodeData::Index(keys.iter().map(|_| reader.varint()).collect::<Option<_>>()?)
    } else {
        let entry = |key: &&[u8]| Some((key.to_vec(), reader.counted_bytes()?.to_vec()));
        NodeData::Leaf(keys.iter().map(entry).collect::<Option<_>>()?)
    };
    (prefix_len <= low.len()).then_some(Node { next, merging_child, is_merging, low, high, prefix_len, data })
}

/// Applies a change that was appended to a page.
fn apply_link(node: &mut Node, bytes: &[u8]) -> Option<()> {
    let mut reader = Reader::new(bytes);
    match (reader.u8()?, &mut node.data) {
        (0, NodeData::Leaf(entries)) => {
            let (key, value) = (reader.counted_bytes()?, reader.counted_bytes()?);
            entries.insert(key.to_vec(), value.to_vec());
        }
        (1, NodeData::Leaf(entries)) => {
            entries.remove(reader.counted_bytes()?);
        }
        (2, _) => node.merging_child = Some(reader.varint()?),
        (3, NodeData::Index(children)) => {
            let merged = node.merging_child.take()?;
            children.retain(|child| *child != merged);
        }
        (4, _) => node.is_merging = true,
        _ => return None,
    }
    Some(())
}
