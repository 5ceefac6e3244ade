//! The source of a list job: one line of JSON per recipient, written by this node.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use relevo_domain::Content;

use super::source::{RowPayload, SourcePage, SourcePosition, SourceRow};

/// Size of the read buffer, in bytes.
const BUFFER: usize = 64 << 10;

/// A line to write.
#[derive(Serialize)]
struct JsonLineRef<'a> {
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Content>,
}

/// A line that was read.
#[derive(Deserialize)]
struct JsonLine {
    to: String,
    #[serde(default)]
    content: Option<Content>,
}

/// Encodes one recipient as a line: `to` as the caller spells it, and the recipient's own content.
pub(super) fn encode_line(to: &str, content: Option<&Content>) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&JsonLineRef { to, content })?;
    line.push(b'\n');
    Ok(line)
}

/// Reads up to `limit` rows from `from`.
pub(super) fn page(path: &Path, from: SourcePosition, limit: usize) -> std::io::Result<SourcePage> {
    let mut reader = BufReader::with_capacity(BUFFER, File::open(path)?);
    reader.seek(SeekFrom::Start(from.offset))?;
    let (mut rows, mut position, mut line) = (Vec::new(), from, Vec::new());
    while rows.len() < limit {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        let JsonLine { to, content } = serde_json::from_slice(&line)?;
        let body = content.map_or(RowPayload::Nothing, |content| RowPayload::Content(Box::new(content)));
        let parsed = to.parse().map_err(|invalid: relevo_domain::ValidationError| invalid.reason);
        rows.push(SourceRow { position, to: parsed, phone: to, payload: body });
        position = SourcePosition {
            offset: position.offset + length as u64,
            row: position.row + 1,
            line: position.line + 1,
        };
    }
    Ok(SourcePage { rows, next: position })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_continues_after_the_previous_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("source");
        let content = Content::Text { body: "línea\nuna".to_owned(), preview_url: false };
        let mut bytes = Vec::new();
        for (to, content) in [
            ("573001234567", None),
            ("abc", None),
            ("+57 300 765 4321", Some(&content)),
            ("573009876543", None),
        ] {
            bytes.extend(encode_line(to, content).unwrap());
        }
        std::fs::write(&path, bytes).unwrap();
        let first = page(&path, SourcePosition::START, 2).unwrap();
        assert_eq!(first.rows[0].to.as_ref().unwrap().to_string(), "573001234567");
        assert!(first.rows[1].to.as_ref().unwrap_err().contains("dígitos"));
        let second = page(&path, first.next, 9).unwrap();
        assert_eq!(second.rows.len(), 2);
        assert_eq!((second.rows[0].position.row, second.rows[0].position.line), (2, 3));
        assert_eq!(second.rows[0].phone, "+57 300 765 4321");
        assert_eq!(second.rows[0].payload, RowPayload::Content(Box::new(content)));
        assert_eq!(page(&path, second.next, 9).unwrap().rows, []);
    }
}
