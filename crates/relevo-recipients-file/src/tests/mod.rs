//! Tests of the checker, the reader and the templates, and their shared functions.

mod files;
mod properties;
mod templates;

use std::io::Write;

use super::{BadFile, Checker, FileSummary, Format, Position, RecipientRow, RowReader};

/// Checks a file that arrives in one piece.
fn check(file: &[u8]) -> Result<FileSummary, BadFile> {
    let mut checker = Checker::default();
    checker.push(file)?;
    checker.finish()
}

/// All rows of a file, in pages of `limit`.
fn rows_in_pages(limit: usize, file: &[u8], format: &Format) -> Vec<RecipientRow> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file).unwrap();
    let mut source = RowReader::open(on_disk.path(), format).unwrap();
    let mut next: Option<Position> = Some(format.start);
    let mut rows = Vec::new();
    while let Some(from) = next {
        let page = source.page(from, limit).unwrap();
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        assert_ne!(page.next, Some(from), "the position must advance");
        next = page.next;
    }
    rows
}

fn rows(file: &[u8], format: &Format) -> Vec<RecipientRow> {
    rows_in_pages(usize::MAX, file, format)
}
