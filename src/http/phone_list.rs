//! Incremental parser of a file with one phone a line. The file is never in memory as a whole.

use relevo_domain::{Recipient, RecipientParser};

/// Maximum length of a line, in bytes.
const MAX_LINE_LENGTH: usize = 4096;

/// Maximum length of a cell in an error text, in characters.
const MAX_SHOWN_CHARS: usize = 40;

/// Splits incoming chunks into lines.
#[derive(Default)]
pub(super) struct PhoneListParser {
    /// The incomplete last line.
    pending: Vec<u8>,
    /// The number of lines read.
    line_number: u64,
    /// The rest of the pending line is discarded.
    overlong: bool,
    recipients: RecipientParser,
}

/// The content of a line.
#[derive(Debug, PartialEq)]
pub(super) enum PhoneLine {
    Phone(Recipient),
    Invalid { line: u64, reason: String },
}

impl PhoneListParser {
    /// A parser whose phones `recipients` reads.
    pub fn new(recipients: RecipientParser) -> Self {
        Self { recipients, ..Self::default() }
    }

    /// Parses the lines that `chunk` completes.
    pub fn push(&mut self, chunk: &[u8], each: &mut impl FnMut(PhoneLine)) {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            self.append_pending(line);
            self.finish(each);
            rest = behind.get(1..).unwrap_or_default();
        }
        self.append_pending(rest);
    }

    /// Parses the last line, which need not end with a line break.
    pub fn finish(&mut self, each: &mut impl FnMut(PhoneLine)) {
        let line = std::mem::take(&mut self.pending);
        let overlong = std::mem::take(&mut self.overlong);
        self.line_number += 1;
        if overlong {
            let reason = format!("the line is longer than {MAX_LINE_LENGTH} bytes");
            return each(PhoneLine::Invalid { line: self.line_number, reason });
        }
        let text = String::from_utf8_lossy(&line);
        let cell = first_cell(&text);
        // Blank lines and a heading are skipped.
        if cell.is_empty() || (self.line_number == 1 && !cell.chars().any(char::is_numeric)) {
            return;
        }
        each(match self.recipients.parse(cell) {
            Ok(recipient) => PhoneLine::Phone(recipient),
            Err(wrong) => {
                let shown: String = cell.chars().take(MAX_SHOWN_CHARS).collect();
                PhoneLine::Invalid { line: self.line_number, reason: format!("{shown:?}: {}", wrong.reason) }
            }
        });
    }

    fn append_pending(&mut self, part: &[u8]) {
        if self.pending.len() + part.len() > MAX_LINE_LENGTH {
            self.overlong = true;
            self.pending.clear();
        }
        if !self.overlong {
            self.pending.extend_from_slice(part);
        }
    }
}

/// The first column of a line with any separator, without quotes around it and byte order mark.
fn first_cell(line: &str) -> &str {
    let line = line.trim_start_matches('\u{feff}');
    let cell = line.split([',', ';', '|', '\t']).next().unwrap_or_default().trim();
    // The quotes of `="573001234567"` belong to the phone as spreadsheets write it.
    if cell.starts_with('=') { cell } else { cell.trim_matches(['"', '\'', ' ']) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut each = |line| {
            found.push(match line {
                PhoneLine::Phone(phone) => phone.to_string(),
                PhoneLine::Invalid { line, reason } => format!("{line}: {reason}"),
            });
        };
        let mut lines = PhoneListParser::default();
        for chunk in chunks {
            lines.push(chunk, &mut each);
        }
        lines.finish(&mut each);
        found
    }

    #[test]
    fn first_column_is_read_from_spreadsheet_exports() {
        let file =
            "\u{feff}Teléfono;Nombre\r\n\"+57 300 123 4567\";Ana\r\n\r\n573001234568\tx\n 573001234569 ,y";
        let expected = ["573001234567", "573001234568", "573001234569"];
        assert_eq!(read(&[file.as_bytes()]), expected);
        let bytes: Vec<&[u8]> = file.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes), expected, "whatever way it is cut");
    }

    #[test]
    fn phones_are_read_as_everywhere() {
        let file = "=\"573001234567\";Ana\ntel:+573001234568\n00573001234569\n٥٧٣٠٠١٢٣٤٥٧٠\n376312345|x\n0718139912\n";
        let found = read(&[file.as_bytes()]);
        let numbers = ["573001234567", "573001234568", "573001234569", "573001234570", "376312345"];
        assert_eq!(found[..5], numbers);
        assert!(found[5].starts_with("6: ") && found[5].contains("country code"), "{found:?}");
    }

    #[test]
    fn invalid_line_is_reported_by_its_number() {
        let long = format!("573001234567\n{}\nana\n12,x\n", "9".repeat(MAX_LINE_LENGTH + 1));
        let found = read(&[long.as_bytes()]);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[1], "2: the line is longer than 4096 bytes");
        assert!(found[2].starts_with("3: \"ana\": ") && found[3].starts_with("4: \"12\": "), "{found:?}");
        assert_eq!(read(&[]), Vec::<String>::new());
    }
}
