//! Why a file or a template is refused, in the words of the documented API: what, where, and what to do.

use std::fmt;

use relevo_domain::ErrorKind;

use super::Separator;

/// Why a file is refused as a whole. The texts begin with those of the documented `400` and `413`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    #[error(
        "Archivo vacío: no contiene ninguna fila; escriba una fila por destinatario, con el teléfono en la \
         primera columna"
    )]
    Empty,
    #[error(
        "Archivo vacío: solo contiene la fila de encabezado; escriba debajo una fila por destinatario, con el \
         teléfono en la primera columna"
    )]
    OnlyHeader,
    #[error(
        "Archivo con demasiados recipients: el máximo es {limit} y la línea {line} lo supera; divida el archivo"
    )]
    TooManyRows { limit: u32, line: u64 },
    #[error(
        "Encoding incorrecto: línea {line}, columna {column}: {found}; guarde el archivo como «CSV UTF-8»"
    )]
    Encoding { line: u64, column: u64, found: EncodingFault },
    #[error(
        "Formato inválido: las comillas que se abren en la línea {line} no se cierran bien; ciérrelas, o \
         escríbalas dobles (\"\") dentro de un campo entre comillas"
    )]
    UnclosedQuote { line: u64 },
    #[error(
        "Formato inválido: no se sabe si las columnas se separan con {first} o con {second} (línea {line}); \
         use | en todas las filas"
    )]
    AmbiguousSeparator { line: u64, first: Separator, second: Separator },
    #[error("Formato inválido: la línea {line} supera {limit} bytes; escriba cada destinatario en su línea")]
    LineTooLong { line: u64, limit: usize },
    #[error("Formato inválido: el archivo es {0}; expórtelo como «CSV UTF-8» y envíe el archivo exportado")]
    NotText(DocumentType),
}

/// What stands where UTF-8 should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodingFault {
    /// The byte order mark of UTF-16: what Excel calls “Unicode text”.
    Utf16,
    /// A zero byte, which UTF-16 without a mark is full of.
    NulByte,
    /// A byte that no UTF-8 text has in this place; Latin-1 and Windows-1252 write accents so.
    Byte(u8),
}

impl fmt::Display for EncodingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodingFault::Utf16 => f.write_str("el archivo está en UTF-16, no en UTF-8"),
            EncodingFault::NulByte => f.write_str("hay un byte nulo, como en UTF-16 o en un archivo binario"),
            EncodingFault::Byte(byte) => {
                write!(f, "el byte 0x{byte:02X} no es UTF-8; quizás es Latin-1 o Windows-1252")
            }
        }
    }
}

/// What a file is instead of rows of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentType {
    /// `.xlsx`, `.ods` or any other ZIP.
    Workbook,
    /// `.xls`, and the other documents of old Office.
    OldWorkbook,
    Pdf,
    Gzip,
    Rtf,
    /// HTML or XML: what many sites offer as “export to Excel”.
    Markup,
    Json,
}

impl fmt::Display for DocumentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DocumentType::Workbook => "un libro de Excel (.xlsx) u otro archivo ZIP",
            DocumentType::OldWorkbook => "un libro de Excel (.xls)",
            DocumentType::Pdf => "un PDF",
            DocumentType::Gzip => "un archivo comprimido (gzip)",
            DocumentType::Rtf => "un documento RTF",
            DocumentType::Markup => "una página HTML o un documento XML",
            DocumentType::Json => "un documento JSON",
        })
    }
}

impl BadFile {
    /// The part of the upload that is wrong.
    pub const FIELD: &'static str = "file";

    pub fn kind(&self) -> ErrorKind {
        match self {
            BadFile::TooManyRows { .. } => ErrorKind::TooLarge,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Why the first cell of a row is nobody's address. Costs the row, never the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPhone {
    /// The spreadsheet rounded the number: its last digits are lost, and no guess is made.
    #[error(
        "{cell} es un número en notación científica: la hoja de cálculo perdió sus últimos dígitos; dé a la \
         columna el formato Texto, escriba el número de nuevo y exporte otra vez"
    )]
    Scientific { cell: String },
    /// The text of the documented API.
    #[error("{reason}")]
    Invalid { reason: String },
}

/// Why a message template is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    #[error("El mensaje es requerido; escriba el texto, con @valor1, @valor2… donde van las columnas")]
    Empty,
}

impl BadTemplate {
    /// The part of the upload that is wrong.
    pub const FIELD: &'static str = "message";

    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}
