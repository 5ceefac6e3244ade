//! Files as people send them.

use std::io::Write;

use crate::bulk::rows::{BadFile, Checked, Checker, Row, Source, Template};

fn check(file: &[u8]) -> Result<Checked, BadFile> {
    let mut checker = Checker::default();
    checker.push(file)?;
    checker.finish()
}

fn rows(file: &[u8], checked: &Checked) -> Vec<Row> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file).unwrap();
    let mut source = Source::open(on_disk.path(), &checked.format).unwrap();
    source.page(checked.format.start, usize::MAX).unwrap().rows
}

#[test]
fn the_documented_file_becomes_the_documented_messages() {
    let file = b"phone|@valor1|@valor2\n+51123123123|leonardo|12345\n+51123123124|maria|12346\n\
                 +51123123125|juan\n+51123123126\n";
    let checked = check(file).unwrap();
    assert_eq!((checked.rows, checked.bad), (4, 0));
    let message = "Hola @valor1, tu pedido @valor2 ha sido procesado. Gracias @valor1!";
    let template = Template::parse(message, &checked.format).unwrap();
    let messages: Vec<String> = rows(file, &checked).iter().map(|row| template.render(row)).collect();
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
