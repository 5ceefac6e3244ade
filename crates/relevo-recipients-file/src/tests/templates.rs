//! Tests of templates.

use proptest::collection::vec;
use proptest::prelude::*;

use relevo_domain::{RecipientParser, ValidationError};

use crate::{BadTemplate, Format, Position, RecipientRow, Separator, TextTemplate};

fn format(header: &[&str]) -> Format {
    let header = header.iter().map(|name| (*name).to_owned()).collect();
    Format {
        separator: Separator::Pipe,
        header: Some(header),
        start: Position { offset: 0, row: 0, line: 1 },
        recipients: RecipientParser::default(),
    }
}

fn row(values: &[&str]) -> RecipientRow {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    let cell = "51987654321".to_owned();
    RecipientRow { number: 0, line: 1, offset: 0, to: Ok(cell.parse().unwrap()), cell, values }
}

fn render(header: &[&str], message: &str, values: &[&str]) -> String {
    TextTemplate::parse(message, &format(header)).unwrap().render(&row(values))
}

#[test]
fn numbered_placeholders_use_all_digits() {
    let ten: Vec<String> = (1..=10).map(|n| format!("v{n}")).collect();
    let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
    for (message, expected) in [
        ("@valor1", "v1"),
        ("@valor10", "v10"),
        ("@valor1 0", "v1 0"),
        ("@valor11", "---"),
        ("@valor01", "v1"),
        ("@valor0 @valor", "@valor0 @valor"),
        ("@VALOR2,@Valor3.", "v2,v3."),
        ("Hola@valor1@valor2x", "Holav1v2x"),
        ("@valor99999999999999999999999999", "---"),
        ("@@valor1@", "@v1@"),
        ("niño @valor1 ñ@valor2", "niño v1 ñv2"),
    ] {
        assert_eq!(render(&[], message, &ten), expected, "{message}");
    }
}

#[test]
fn named_placeholders_come_from_the_header() {
    let header = ["Teléfono", "nombre", "Nombre Completo", "@Ciudad", "código_postal", "", "nombre"];
    let values = ["Ana", "Ana Soto", "Lima", "15001", "nada", "otra"];
    for (message, expected) in [
        ("@nombre!", "Ana!"),
        ("@NOMBRE y @Nombre", "Ana y Ana"),
        ("@nombre completo.", "Ana Soto."),
        ("@nombre completos", "Ana completos"),
        ("@nombres @nombre_x @nombre2", "@nombres @nombre_x @nombre2"),
        ("@ciudad/@CÓDIGO_POSTAL", "Lima/15001"),
        ("@codigo_postal", "@codigo_postal"),
        ("@teléfono", "51987654321"),
        ("info@nombre.com", "info@nombre.com"),
        ("síguenos en @tienda", "síguenos en @tienda"),
        ("(@nombre)", "(Ana)"),
        ("@valor2 es @nombre completo", "Ana Soto es Ana Soto"),
    ] {
        assert_eq!(render(&header, message, &values), expected, "{message}");
    }
}

#[test]
fn numbered_placeholders_ignore_header_names() {
    assert_eq!(render(&["phone", "@valor2", "@valor1"], "@valor1-@valor2", &["a", "b"]), "a-b");
}

#[test]
fn missing_and_empty_values_render_as_dashes() {
    assert_eq!(render(&["phone", "a", "b", "c"], "@a|@b|@c", &["", "x"]), "---|x|---");
    let mut bad_row = row(&[]);
    bad_row.to = Err(ValidationError::new("phone", "is missing"));
    assert_eq!(TextTemplate::parse("@phone", &format(&["phone"])).unwrap().render(&bad_row), "---");
}

#[test]
fn template_without_text_is_refused() {
    for message in ["", " \n"] {
        let error = TextTemplate::parse(message, &format(&[])).unwrap_err();
        assert_eq!(error, BadTemplate::Empty);
        assert!(error.to_string().contains("requerido"));
    }
}

proptest! {
    #[test]
    fn text_without_placeholders_is_unchanged(message in "[^@]{1,40}") {
        prop_assume!(!message.trim().is_empty());
        prop_assert_eq!(render(&["phone", "a"], &message, &["x"]), message);
    }

    #[test]
    fn values_are_inserted_literally(values in vec("[a@1-9valor ]{1,12}", 1..5)) {
        let placeholders: Vec<String> = (1..=values.len()).map(|n| format!("<@valor{n}>")).collect();
        let expected: String = values.iter().map(|value| format!("<{value}>")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        prop_assert_eq!(render(&["phone", "a", "valor"], &placeholders.concat(), &values), expected);
    }

    #[test]
    fn any_message_with_any_header_renders(message in "[@valornÑñ0-9 _.]{1,40}", header in vec("[@valornÑñ0-9 _]{0,6}", 0..5)) {
        prop_assume!(!message.trim().is_empty());
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let rendered = render(&header, &message, &["x"]);
        prop_assert_eq!(rendered.is_empty(), false);
    }
}

#[test]
fn no_row_is_shorter_than_the_minimal_text() {
    let template = TextTemplate::parse("Hola @valor1, tu pedido @valor2 (@valor3)", &format(&[])).unwrap();
    assert_eq!(template.minimal_text(), "Hola x, tu pedido x (x)");
    for values in [&[][..], &["a", "b", "c"], &["", "b"]] {
        assert!(template.render(&row(values)).chars().count() >= template.minimal_text().chars().count());
    }
}
