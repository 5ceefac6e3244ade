//! Property tests of the checker, the reader and the parser.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::{BadFile, Checker, FileSummary, MAX_SAMPLE, Separator};

use super::{check, rows, rows_in_pages};

/// The parts of arbitrary files; many are special to the parser.
const PARTS: [&str; 28] = [
    "51987654321",
    "+51 987-654-322",
    "12",
    "phone",
    "Teléfono",
    "ana",
    "5,1E+10",
    "=\"51987654321\"",
    "@valor1",
    "|",
    "|",
    ",",
    ";",
    "\t",
    "\n",
    "\n",
    "\r\n",
    "\r",
    "\"",
    "\"",
    "\"\"",
    " ",
    "ñ",
    "\u{a0}",
    "\u{feff}",
    "sep=;\n",
    "\n51987654321|",
    "\n51987654322;",
];

fn arbitrary_file() -> impl Strategy<Value = Vec<u8>> {
    vec(select(PARTS.as_slice()), 0..60).prop_map(|parts| parts.concat().into_bytes())
}

/// Files that the checker accepts, so that properties of rows are tested on rows.
fn well_formed_file() -> impl Strategy<Value = Vec<u8>> {
    let row =
        (select(vec!["51987654321", "12", "+51 987 654 322"]), vec("[a-z ñ]{0,6}|\"[a-z|\r\n]{0,6}\"", 0..4));
    let ending = select(vec!["\n", "\r\n", "\r", "\n\n", "\n||\n"]);
    vec((row, ending), 1..40).prop_map(|rows| {
        rows.into_iter()
            .map(|((to, values), ending)| format!("{to}|{}{ending}", values.join("|")))
            .collect::<String>()
            .into_bytes()
    })
}

fn check_in_chunks(file: &[u8], sizes: &[usize]) -> Result<FileSummary, BadFile> {
    let mut checker = Checker::default();
    let mut rest = file;
    for size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        checker.push(piece)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    checker.finish()
}

/// Asserts that the reader finds the rows that the checker counted.
fn assert_reader_agrees(file: &[u8], checked: &FileSummary) {
    let rows = rows(file, &checked.format);
    assert_eq!(rows.len(), checked.rows as usize);
    assert!(rows.iter().enumerate().all(|(at, row)| row.number as usize == at));
    let bad: Vec<(u64, String)> =
        rows.iter().filter_map(|row| Some((row.line, row.to.as_ref().err()?.reason.clone()))).collect();
    assert_eq!(bad.len(), checked.bad as usize);
    let named: Vec<_> = checked.bad_sample.iter().map(|bad| (bad.line, bad.reason.clone())).collect();
    assert_eq!(named, bad[..bad.len().min(MAX_SAMPLE)]);
}

proptest! {
    #[test]
    fn result_does_not_depend_on_piece_sizes(file in prop_oneof![arbitrary_file(), well_formed_file()], sizes in vec(1..9_usize, 1..6)) {
        prop_assert_eq!(check_in_chunks(&file, &sizes), check(&file));
    }

    #[test]
    fn reader_finds_the_rows_that_the_checker_counted(file in arbitrary_file()) {
        if let Ok(checked) = check(&file) {
            assert_reader_agrees(&file, &checked);
        }
    }

    #[test]
    fn pages_together_are_the_whole_file(file in well_formed_file(), limit in 1..7_usize) {
        let checked = check(&file).unwrap();
        assert_reader_agrees(&file, &checked);
        prop_assert_eq!(rows_in_pages(limit, &file, &checked.format), rows(&file, &checked.format));
    }

    #[test]
    fn line_numbers_match_those_of_an_editor(file in well_formed_file()) {
        let text = String::from_utf8(file.clone()).unwrap().replace("\r\n", "\n").replace('\r', "\n");
        let lines: Vec<&str> = text.split('\n').collect();
        for row in rows(&file, &check(&file).unwrap().format) {
            prop_assert!(lines[row.line as usize - 1].starts_with(['5', '1', '+']), "line {}", row.line);
        }
    }

    #[test]
    fn random_bytes_never_panic(file in vec(any::<u8>(), 0..300), size in 1..50_usize) {
        prop_assert_eq!(check_in_chunks(&file, &[size]), check(&file));
    }

    #[test]
    fn files_written_by_the_csv_crate_are_read_back(
        separator in select(Separator::ALL.as_slice()),
        values in vec(vec("[a-zñ,;|\t\"\n]{1,8}", 1..5), 1..20),
    ) {
        let mut writer = csv::WriterBuilder::new()
            .delimiter(separator.byte())
            .flexible(true)
            .quote_style(csv::QuoteStyle::Always)
            .from_writer(Vec::new());
        for values in &values {
            let to = std::iter::once("51987654321");
            writer.write_record(to.chain(values.iter().map(String::as_str))).unwrap();
        }
        let file = writer.into_inner().unwrap();
        let checked = check(&file).unwrap();
        prop_assert_eq!(checked.format.separator, separator);
        for (row, values) in rows(&file, &checked.format).iter().zip(&values) {
            let mut expected: Vec<&str> = values.iter().map(|value| value.trim()).collect();
            while expected.last().is_some_and(|value| value.is_empty()) {
                expected.pop();
            }
            prop_assert_eq!(&row.values, &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn result_does_not_depend_on_piece_sizes_beyond_the_sample(tail in arbitrary_file(), size in 1..5000_usize) {
        let file = [b"51987654321|ana|lima\r\n".repeat(3100), tail].concat();
        prop_assert_eq!(check_in_chunks(&file, &[size]), check(&file));
    }
}

#[test]
fn pages_of_wide_rows_are_short() {
    let wide = [b"51987654321|".to_vec(), b"x".repeat(60_000), b"\n".to_vec()].concat();
    let file = wide.repeat(50);
    let checked = check(&file).unwrap();
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), &file).unwrap();
    let mut source = crate::RowReader::open(path.path(), &checked.format).unwrap();
    let page = source.page(checked.format.start, 1000).unwrap();
    assert!((10..20).contains(&page.rows.len()), "{}", page.rows.len());
    assert_eq!(page.next.unwrap().row as usize, page.rows.len());
    assert_eq!(rows(&file, &checked.format).len(), 50);
}
