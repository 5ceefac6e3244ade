//! Phones from a file, one a line, while it arrives: the file is never in memory as a whole.

use relevo_domain::Recipient;

/// A longer line is no phone with a few columns behind it, in bytes.
const LONGEST_LINE: usize = 4096;

/// The longest cell that is shown in a reason, in characters.
const SHOWN: usize = 40;

/// Cuts what arrives into lines.
#[derive(Default)]
pub(super) struct PhoneLines {
    /// The part of a line that arrived.
    pending: Vec<u8>,
    /// Lines that were read.
    number: u64,
    /// The rest of the pending line is thrown away.
    overlong: bool,
}

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    Phone(Recipient),
    Wrong { line: u64, reason: String },
}

impl PhoneLines {
    /// Reads the lines that are complete with this.
    pub fn take(&mut self, chunk: &[u8], each: &mut impl FnMut(Line)) {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            self.keep(line);
            self.finish(each);
            rest = behind.get(1..).unwrap_or_default();
        }
        self.keep(rest);
    }

    /// Reads the last line, which needs no end.
    pub fn finish(&mut self, each: &mut impl FnMut(Line)) {
        let line = std::mem::take(&mut self.pending);
        let overlong = std::mem::take(&mut self.overlong);
        self.number += 1;
        if overlong {
            let reason = format!("the line is longer than {LONGEST_LINE} bytes");
            return each(Line::Wrong { line: self.number, reason });
        }
        let text = String::from_utf8_lossy(&line);
        let cell = first_cell(&text);
        // Blank lines, and a heading, say nothing.
        if cell.is_empty() || (self.number == 1 && !cell.chars().any(|c| c.is_ascii_digit())) {
            return;
        }
        each(match cell.parse() {
            Ok(recipient) => Line::Phone(recipient),
            Err(wrong) => {
                let shown: String = cell.chars().take(SHOWN).collect();
                Line::Wrong { line: self.number, reason: format!("{shown:?}: {}", wrong.reason) }
            }
        });
    }

    fn keep(&mut self, part: &[u8]) {
        if self.pending.len() + part.len() > LONGEST_LINE {
            self.overlong = true;
            self.pending.clear();
        }
        if !self.overlong {
            self.pending.extend_from_slice(part);
        }
    }
}

/// The first column, whatever separates it from the others, without quotes and a byte order mark.
fn first_cell(line: &str) -> &str {
    let line = line.trim_start_matches('\u{feff}');
    let cell = line.split([',', ';', '\t']).next().unwrap_or_default();
    cell.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut each = |line| {
            found.push(match line {
                Line::Phone(phone) => phone.to_string(),
                Line::Wrong { line, reason } => format!("{line}: {reason}"),
            });
        };
        let mut lines = PhoneLines::default();
        for chunk in chunks {
            lines.take(chunk, &mut each);
        }
        lines.finish(&mut each);
        found
    }

    #[test]
    fn the_first_column_is_found_in_what_spreadsheets_write() {
        let file =
            "\u{feff}Teléfono;Nombre\r\n\"+57 300 123 4567\";Ana\r\n\r\n573001234568\tx\n 573001234569 ,y";
        let expected = ["573001234567", "573001234568", "573001234569"];
        assert_eq!(read(&[file.as_bytes()]), expected);
        let bytes: Vec<&[u8]> = file.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes), expected, "whatever way it is cut");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        let long = format!("573001234567\n{}\nana\n12,x\n", "9".repeat(LONGEST_LINE + 1));
        let found = read(&[long.as_bytes()]);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[1], "2: the line is longer than 4096 bytes");
        assert!(found[2].starts_with("3: \"ana\": ") && found[3].starts_with("4: \"12\": "), "{found:?}");
        assert_eq!(read(&[]), Vec::<String>::new());
    }
}
