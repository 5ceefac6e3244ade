//! Tests with files as Excel, Google Sheets, pandas, ad managers and people write them.

use crate::{
    BadFile, BadRow, Checker, DocumentType, EncodingFault, Format, MAX_LINE, MAX_SAMPLE, Position, RowReader,
    Separator, TextTemplate,
};
use relevo_domain::{ErrorKind, RecipientParser};

use super::{check, rows};

use Separator::{Comma, Pipe, Semicolon, Tab};

/// An accepted file: its name, its bytes, its separator, whether it has a header, and for each row the recipient (or
/// `!line` of a bad one) and the values.
type AcceptedFile = (&'static str, &'static [u8], Separator, bool, &'static [&'static [&'static str]]);

const A: &str = "51987654321";
const B: &str = "51987654322";

const ACCEPTED: &[AcceptedFile] = &[
    ("no header", b"51987654321|ana\n51987654322|leo\n", Pipe, false, &[&[A, "ana"], &[B, "leo"]]),
    ("no line end at the end", b"phone|x\n51987654321|ana", Pipe, true, &[&[A, "ana"]]),
    ("CR LF", b"phone|x\r\n51987654321|ana\r\n51987654322|leo\r\n", Pipe, true, &[&[A, "ana"], &[B, "leo"]]),
    ("CR alone, old Mac", b"phone|x\r51987654321|ana\r12|leo", Pipe, true, &[&[A, "ana"], &["!3", "leo"]]),
    ("mixed line ends", b"phone\r\n51987654321\n\r\n51987654322\r", Pipe, true, &[&[A], &[B]]),
    ("byte order mark", b"\xEF\xBB\xBF51987654321|ana\n", Pipe, false, &[&[A, "ana"]]),
    ("mark and header", b"\xEF\xBB\xBFphone|x\n51987654321|ana\n", Pipe, true, &[&[A, "ana"]]),
    (
        "marks within, from files put together",
        b"51987654321\n\xEF\xBB\xBF51987654322\n",
        Pipe,
        false,
        &[&[A], &[B]],
    ),
    ("one column", b"51987654321\n51987654322\n", Pipe, false, &[&[A], &[B]]),
    ("one column, one row", b"51987654321", Pipe, false, &[&[A]]),
    ("comma, from Google Sheets", b"Telefono,Nombre\n51987654321,Ana\n", Comma, true, &[&[A, "Ana"]]),
    (
        "semicolon, from Excel in Spanish",
        b"Telefono;Nombre\n51987654321;Ana\n",
        Semicolon,
        true,
        &[&[A, "Ana"]],
    ),
    ("tab, pasted from a sheet", b"51987654321\tAna\tLima\n", Tab, false, &[&[A, "Ana", "Lima"]]),
    (
        "commas in the text of a pipe file",
        b"51987654321|Hola, Ana; y Leo\n",
        Pipe,
        false,
        &[&[A, "Hola, Ana; y Leo"]],
    ),
    (
        "a comma in the text of a semicolon file",
        b"51987654321;Hola, Ana\n",
        Semicolon,
        false,
        &[&[A, "Hola, Ana"]],
    ),
    (
        "a semicolon in the text of a comma file",
        b"51987654321,Hola; Ana\n",
        Comma,
        false,
        &[&[A, "Hola; Ana"]],
    ),
    ("the first row has no value", b"51987654321\n51987654322|leo\n", Pipe, false, &[&[A], &[B, "leo"]]),
    (
        "decimal commas in a semicolon file",
        b"5,19877E+10;Ana\n51987654321;Leo\n",
        Semicolon,
        false,
        &[&["!1", "Ana"], &[A, "Leo"]],
    ),
    (
        "a comma in the header's first cell",
        b"Telefono, celular;Nombre\n51987654321;Ana\n",
        Semicolon,
        true,
        &[&[A, "Ana"]],
    ),
    ("every phone is bad", b"telefono;nombre\n12;Ana\n", Semicolon, true, &[&["!2", "Ana"]]),
    ("sep= as Excel has it", b"sep=;\r\nphone;x\r\n51987654321;a|b\r\n", Semicolon, true, &[&[A, "a|b"]]),
    (
        "sep= after a mark, no header",
        b"\xEF\xBB\xBF\"sep=,\"\n51987654321,ana\n",
        Comma,
        false,
        &[&[A, "ana"]],
    ),
    (
        "blank lines",
        b"\n\nphone|x\n\n51987654321|ana\n   \n||\n\" \"|\"\"\n51987654322\n\n",
        Pipe,
        true,
        &[&[A, "ana"], &[B]],
    ),
    ("the line of a bad row after blank lines", b"51987654321\n\n\n12\n", Pipe, false, &[&[A], &["!4"]]),
    ("Ctrl-Z at the end, from DOS", b"51987654321\r\n\x1A", Pipe, false, &[&[A]]),
    ("a bad phone first is data", b"12|ana\n51987654321|leo\n", Pipe, false, &[&["!1", "ana"], &[A, "leo"]]),
    ("no phone in the first row", b"|ana\n51987654321|leo\n", Pipe, false, &[&["!1", "ana"], &[A, "leo"]]),
    (
        "a bad phone with a word first is data",
        b"cel 98765|ana\n51987654321|leo\n",
        Pipe,
        false,
        &[&["!1", "ana"], &[A, "leo"]],
    ),
    (
        "the header of Google Contacts",
        b"Phone 1 - Value,Name\n51987654321,Ana\n",
        Comma,
        true,
        &[&[A, "Ana"]],
    ),
    (
        "a header between quotes",
        b"\"phone\",\"full, name\"\n51987654321,\"Soto, Ana\"\n",
        Comma,
        true,
        &[&[A, "Soto, Ana"]],
    ),
    (
        "a second header is a bad row",
        b"phone|x\n51987654321|a\nphone|x\n",
        Pipe,
        true,
        &[&[A, "a"], &["!3", "x"]],
    ),
    (
        "a quoted separator, a pair of quotes",
        b"51987654321|\"a|b \"\"c\"\"\"\n",
        Pipe,
        false,
        &[&[A, "a|b \"c\""]],
    ),
    (
        "lines within quotes, the line after them",
        b"51987654321|\"a\r\nb\nc\"\r\n12|x\n",
        Pipe,
        false,
        &[&[A, "a\r\nb\nc"], &["!4", "x"]],
    ),
    ("inches", b"51987654321|TV 55\"|5\" x 3\"\n", Pipe, false, &[&[A, "TV 55\"", "5\" x 3\""]]),
    (
        "a quoted word that begins a cell",
        b"51987654321|\"Tienda\" Sur|x\n51987654322\n",
        Pipe,
        false,
        &[&[A, "\"Tienda\" Sur", "x"], &[B]],
    ),
    ("blanks around quotes", b"51987654321 , \"Soto, Ana\" ,x\n", Comma, false, &[&[A, "Soto, Ana", "x"]]),
    ("a quoted phone", b"\"51987654321\",\"Ana\"\n", Comma, false, &[&[A, "Ana"]]),
    (
        "=\"\" around everything",
        b"=\"51987654321\",=\"007\"\n\"=\"\"51987654322\"\"\",x\n",
        Comma,
        false,
        &[&[A, "007"], &[B, "x"]],
    ),
    ("trailing separators on every row", b"phone,x,,,\n51987654321,ana,,,\n", Comma, true, &[&[A, "ana"]]),
    ("a hole between values", b"51987654321||lima\n", Pipe, false, &[&[A, "", "lima"]]),
    ("numbers of pandas", b"51987654321.0,ana\nnan,leo\n", Comma, false, &[&[A, "ana"], &["!2", "leo"]]),
    (
        "rounded numbers",
        b"phone,x\n5.1123E+11,ana\n51987654321,leo\n",
        Comma,
        true,
        &[&["!2", "ana"], &[A, "leo"]],
    ),
    (
        "non-breaking spaces",
        "\u{a0}51 987\u{a0}654 321\u{a0}|\u{a0}ana\u{a0}\n".as_bytes(),
        Pipe,
        false,
        &[&[A, "ana"]],
    ),
    ("full-width digits", "５１９８７６５４３２１|ana\n".as_bytes(), Pipe, false, &[&[A, "ana"]]),
    ("leads of an ad manager", b"phone_number\tfull_name\np:+51987654321\tAna\n", Tab, true, &[&[A, "Ana"]]),
    (
        "a header of documented names",
        b"@valor0|@valor1\n51987654321|a\n",
        Pipe,
        false,
        &[&["!1", "@valor1"], &[A, "a"]],
    ),
];

#[test]
fn files_from_common_programs_are_parsed() {
    for (name, file, separator, header, expected) in ACCEPTED {
        let checked = check(file).unwrap_or_else(|bad| panic!("{name}: {bad}"));
        assert_eq!(checked.format.separator, *separator, "{name}");
        assert_eq!(checked.format.header.is_some(), *header, "{name}");
        let found: Vec<Vec<String>> = rows(file, &checked.format)
            .into_iter()
            .map(|row| {
                let to = row.to.map_or(format!("!{}", row.line), |to| to.to_string());
                [vec![to], row.values].concat()
            })
            .collect();
        assert_eq!(found, *expected, "{name}");
        assert_eq!(checked.rows as usize, expected.len(), "{name}");
        let bad = expected.iter().filter(|row| row[0].starts_with('!')).count();
        assert_eq!((checked.bad as usize, checked.bad_sample.len()), (bad, bad), "{name}");
    }
}

#[test]
fn unusable_files_are_refused_with_line_and_column() {
    let encoding = |line, column, found| BadFile::Encoding { line, column, found };
    let long = |bytes: &[u8]| bytes.repeat(MAX_LINE / bytes.len() + 1);
    let refused: Vec<(&str, Vec<u8>, BadFile)> = vec![
        ("nothing", b"".to_vec(), BadFile::Empty),
        ("only a mark", b"\xEF\xBB\xBF".to_vec(), BadFile::Empty),
        ("only blanks", b" \r\n\t\n||\n".to_vec(), BadFile::Empty),
        ("only sep=", b"sep=;\n".to_vec(), BadFile::Empty),
        ("only a header", b"phone|@valor1|@valor2\n".to_vec(), BadFile::OnlyHeader),
        ("only a header, then blanks", b"telefono,nombre\r\n,\r\n".to_vec(), BadFile::OnlyHeader),
        ("only prose", b"hola".to_vec(), BadFile::OnlyHeader),
        ("UTF-16, little end first", b"\xFF\xFE5\x001\0".to_vec(), encoding(1, 1, EncodingFault::Utf16)),
        ("UTF-16, big end first", b"\xFE\xFF\x005\x001".to_vec(), encoding(1, 1, EncodingFault::Utf16)),
        ("UTF-16 without a mark", b"5\x001\0|\0a\0\n\0".to_vec(), encoding(1, 2, EncodingFault::NulByte)),
        (
            "a zero byte",
            b"51987654321|ana\n51987654322|l\0o\n".to_vec(),
            encoding(2, 14, EncodingFault::NulByte),
        ),
        ("Latin-1", b"phone|x\n51987654321|Jos\xE9\n".to_vec(), encoding(2, 16, EncodingFault::Byte(0xE9))),
        (
            "Latin-1 in the header",
            b"tel\xE9fono|x\n51987654321|a\n".to_vec(),
            encoding(1, 4, EncodingFault::Byte(0xE9)),
        ),
        (
            "columns count characters, lines count within quotes",
            b"51987654321|\"a\r\n\xC3\xB1\xC3\xB1\xF1\"\n".to_vec(),
            encoding(2, 3, EncodingFault::Byte(0xF1)),
        ),
        (
            "text cut within a character",
            b"51987654321|\xC3".to_vec(),
            encoding(1, 13, EncodingFault::Byte(0xC3)),
        ),
        (
            "unclosed quotes",
            b"51987654321|a\n51987654322|\"leo\n51987654323|eva\n".to_vec(),
            BadFile::UnclosedQuote { line: 2 },
        ),
        (
            "quotes that close rows later",
            b"51987654321|\"leo\n51987654322|\"eva\"\n".to_vec(),
            BadFile::UnclosedQuote { line: 1 },
        ),
        (
            "unclosed quotes until the line limit",
            [b"51987654321|\"leo\n".to_vec(), long(b"51987654322|eva\n")].concat(),
            BadFile::UnclosedQuote { line: 1 },
        ),
        ("an overlong line", long(b"51987654321,"), BadFile::LineTooLong { line: 1, limit: MAX_LINE }),
        (
            "an overlong line that is not the first",
            [b"51987654321|a\n".to_vec(), long(b"x")].concat(),
            BadFile::LineTooLong { line: 2, limit: MAX_LINE },
        ),
        (
            "two separators by halves",
            b"51987654321,ana\n51987654322;leo\n".to_vec(),
            BadFile::AmbiguousSeparator { line: 2, first: Semicolon, second: Comma },
        ),
        ("a workbook", b"PK\x03\x04\x14\0".to_vec(), BadFile::NotText(DocumentType::Workbook)),
        ("an old workbook", b"\xD0\xCF\x11\xE0\xA1".to_vec(), BadFile::NotText(DocumentType::OldWorkbook)),
        ("a PDF", b"%PDF-1.7\n".to_vec(), BadFile::NotText(DocumentType::Pdf)),
        ("gzip", b"\x1F\x8B\x08".to_vec(), BadFile::NotText(DocumentType::Gzip)),
        ("RTF", b"{\\rtf1 51987654321}".to_vec(), BadFile::NotText(DocumentType::Rtf)),
        ("a web page called .xls", b"\n<table><tr>".to_vec(), BadFile::NotText(DocumentType::Markup)),
        ("JSON", b"[{\"phone\": \"51987654321\"}]".to_vec(), BadFile::NotText(DocumentType::Json)),
    ];
    for (name, file, expected) in refused {
        assert_eq!(check(&file), Err(expected), "{name}");
    }
}

#[test]
fn error_texts_name_the_problem_the_place_and_the_remedy() {
    let text = |file: &[u8]| check(file).unwrap_err().to_string();
    let latin = text(b"phone|x\n51987654321|Jos\xE9\n");
    assert!(latin.starts_with("Encoding incorrecto: línea 2, columna 16: el byte 0xE9"), "{latin}");
    assert!(latin.contains("CSV UTF-8"), "{latin}");
    assert!(text(b"PK\x03\x04").contains("Excel"));
    assert!(text(b"").starts_with("Archivo vacío"));
    assert!(text(b"51987654321|\"a").contains("línea 1"));
}

#[test]
fn file_over_the_row_limit_is_too_large() {
    let with = |file: &[u8]| {
        let mut checker = Checker::new(2, RecipientParser::default());
        checker.push(file).and_then(|()| checker.finish())
    };
    assert_eq!(with(b"phone\n51987654321\n\n12\n\n").unwrap().rows, 2);
    let error = with(b"phone\n51987654321\n\n12\n51987654322").unwrap_err();
    assert_eq!(error, BadFile::TooManyRows { limit: 2, line: 5 });
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(BadFile::Empty.kind(), ErrorKind::Invalid);
}

#[test]
fn default_limit_is_one_million_rows() {
    let mut checker = Checker::default();
    let thousand = b"51987654321|a\n".repeat(1000);
    for _ in 0..1000 {
        checker.push(&thousand).unwrap();
    }
    let error = checker.push(b"12").and_then(|()| checker.finish()).unwrap_err();
    assert_eq!(error, BadFile::TooManyRows { limit: 1_000_000, line: 1_000_001 });
}

#[test]
fn bad_rows_are_counted_and_the_first_are_reported() {
    let file = [b"phone\n".to_vec(), b"12\n".repeat(MAX_SAMPLE + 5)].concat();
    let checked = check(&file).unwrap();
    assert_eq!((checked.rows, checked.bad), (105, 105));
    assert_eq!(checked.bad_sample.len(), MAX_SAMPLE);
    let reason = "El número de teléfono es demasiado corto (mínimo 7 dígitos)".to_owned();
    assert_eq!(checked.bad_sample.first(), Some(&BadRow { line: 2, reason }));
    assert_eq!(checked.bad_sample.last().map(|bad| bad.line), Some(101));
}

#[test]
fn numbers_outside_the_plan_of_their_country_are_reported_and_good() {
    let file = [b"3001238011|a\n573001238013|b\n".to_vec(), b"5512345678\n".repeat(MAX_SAMPLE)].concat();
    let checked = check(&file).unwrap();
    assert_eq!((checked.rows, checked.bad, checked.unusual), (102, 0, 101));
    assert_eq!(checked.unusual_sample.len(), MAX_SAMPLE);
    let first = &checked.unusual_sample[0];
    assert_eq!((first.line, first.mismatch.country().unwrap().iso()), (1, "GR"));
}

#[test]
fn default_country_completes_the_numbers_of_a_file() {
    let recipients = RecipientParser { default_country: Some("CO".parse().unwrap()) };
    let file =
        b"telefono;nombre\n3001238011;Ana\n(300) 123-8012;Leo\n573001238013;Eva\n+34612345678;Sol\n0;x\n";
    let mut checker = Checker::new(9, recipients);
    checker.push(file).unwrap();
    let checked = checker.finish().unwrap();
    assert_eq!((checked.rows, checked.bad, checked.unusual), (5, 1, 0));
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file).unwrap();
    let page = RowReader::open(path.path(), &checked.format).unwrap().page(checked.format.start, 9).unwrap();
    let read: Vec<_> = page.rows.iter().flat_map(|row| row.to.as_ref().map(ToString::to_string)).collect();
    assert_eq!(read, ["573001238011", "573001238012", "573001238013", "34612345678"]);
}

#[test]
fn format_of_an_earlier_version_is_decoded() {
    #[derive(serde::Serialize)]
    struct Earlier {
        separator: Separator,
        header: Option<Vec<String>>,
        start: Position,
    }
    let earlier = Earlier { separator: Comma, header: None, start: Position { offset: 0, row: 0, line: 1 } };
    let read: Format = rmp_serde::from_slice(&rmp_serde::to_vec_named(&earlier).unwrap()).unwrap();
    assert_eq!((read.separator, read.recipients), (Comma, RecipientParser::default()));
}

#[test]
fn format_round_trips_through_messagepack() {
    let format = check(b"\xEF\xBB\xBFsep=,\r\nphone,@valor1\r\n51987654321,a\r\n").unwrap().format;
    let start = Position { offset: 3 + 7 + 15, row: 0, line: 3 };
    let header = Some(vec!["phone".to_owned(), "@valor1".to_owned()]);
    let recipients = RecipientParser::default();
    assert_eq!(format, Format { separator: Comma, header, start, recipients });
    let bytes = rmp_serde::to_vec_named(&format).unwrap();
    assert_eq!(rmp_serde::from_slice::<Format>(&bytes).unwrap(), format);
}

#[test]
fn reader_refuses_a_file_that_changed_on_disk() {
    let checked = check(b"51987654321|a\n51987654322|b\n").unwrap();
    for changed in [&b"51987654321|a\n\xFF\n"[..], b"51987654321|\"a\n"] {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), changed).unwrap();
        let mut source = crate::RowReader::open(path.path(), &checked.format).unwrap();
        let error = source.page(checked.format.start, 10).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}

#[test]
fn documented_file_yields_the_documented_messages() {
    let file = b"phone|@valor1|@valor2\n+51123123123|leonardo|12345\n+51123123124|maria|12346\n\
                 +51123123125|juan\n+51123123126\n";
    let checked = check(file).unwrap();
    assert_eq!((checked.rows, checked.bad), (4, 0));
    let message = "Hola @valor1, tu pedido @valor2 ha sido procesado. Gracias @valor1!";
    let template = TextTemplate::parse(message, &checked.format).unwrap();
    let messages: Vec<String> = rows(file, &checked.format).iter().map(|row| template.render(row)).collect();
    assert_eq!(
        messages,
        [
            "Hola leonardo, tu pedido 12345 ha sido procesado. Gracias leonardo!",
            "Hola maria, tu pedido 12346 ha sido procesado. Gracias maria!",
            "Hola juan, tu pedido --- ha sido procesado. Gracias juan!",
            "Hola ---, tu pedido --- ha sido procesado. Gracias ---!",
        ]
    );
}
