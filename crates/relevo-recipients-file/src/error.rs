//! The errors of files and templates. The texts are Spanish, as the documented API has them; each says
//! what is wrong, where, and what to do.

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

/// What was found in place of UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodingFault {
    /// The byte order mark of UTF-16, the format that Excel calls “Unicode text”.
    Utf16,
    /// A zero byte. UTF-16 text without a byte order mark has many of them.
    NulByte,
    /// A byte that is not valid UTF-8 at this position. Latin-1 and Windows-1252 encode accents as such bytes.
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

/// The type of a file that is not a text file with rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentType {
    /// `.xlsx`, `.ods` or any other ZIP.
    Workbook,
    /// `.xls` and other documents of old Office versions.
    OldWorkbook,
    Pdf,
    Gzip,
    Rtf,
    /// HTML or XML, which many sites offer as “export to Excel”.
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
    /// Name of the form field that has the error.
    pub const FIELD: &'static str = "file";

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            BadFile::TooManyRows { .. } => ErrorKind::TooLarge,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Why a message template is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    #[error("El mensaje es requerido; escriba el texto, con @valor1, @valor2… donde van las columnas")]
    Empty,
}

impl BadTemplate {
    /// Name of the form field that has the error.
    pub const FIELD: &'static str = "message";

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}
