//! The source of the media in a request: a URL, a media id of WhatsApp, or the bytes in base64.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use url::Url;

use relevo_domain::{MediaKind, ValidationError, mime_essence};

use super::sniff;

/// The media of a request.
#[derive(Debug, PartialEq)]
pub(super) enum MediaInput {
    /// A URL.
    Link(Url),
    /// Bytes in the request.
    Inline { bytes: Bytes, mime: String },
    /// A media id of WhatsApp.
    ProviderId(String),
}

/// The fields of a request that describe its media.
pub(super) struct MediaFields<'a> {
    pub kind: MediaKind,
    /// A URL, a `data:` URI or bare base64.
    pub media_url: &'a str,
    pub media_id: &'a str,
    /// The media type that the caller declares; it wins over the detected one.
    pub mime_type: &'a str,
    pub file_name: Option<&'a str>,
}

const FIELD: &str = "media_url";

/// Resolves the media of a request, and decodes base64.
///
/// # Errors
///
/// No source is given, it cannot be decoded, or its media type is unknown.
pub(super) fn parse_media(described: &MediaFields<'_>) -> Result<MediaInput, ValidationError> {
    let text = described.media_url.trim();
    match (text.is_empty(), described.media_id.is_empty()) {
        (true, true) => {
            Err(ValidationError::new(FIELD, "media_url es requerido: an http(s) URL, a data: URI or base64"))
        }
        (false, false) => Err(ValidationError::new(FIELD, "give media_url or media_id, not both")),
        (true, false) => Ok(MediaInput::ProviderId(described.media_id.to_owned())),
        (false, true) if has_scheme(text, "http://") || has_scheme(text, "https://") => {
            match Url::parse(text) {
                Ok(url) => Ok(MediaInput::Link(url)),
                Err(cause) => Err(ValidationError::new(FIELD, format!("is not a URL: {cause}"))),
            }
        }
        (false, true) if has_scheme(text, "data:") => parse_data_uri(described, text),
        (false, true) if text.contains(':') => {
            Err(ValidationError::new(FIELD, "must be an http(s) URL, a data: URI or base64"))
        }
        (false, true) => parse_inline(described, "", text),
    }
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// `data:<media type>[;parameters];base64,<data>` (RFC 2397).
fn parse_data_uri(described: &MediaFields<'_>, text: &str) -> Result<MediaInput, ValidationError> {
    let wrong = || ValidationError::new(FIELD, "a data: URI must have the form data:<mime>;base64,<data>");
    let (head, data) = text.split_once(',').ok_or_else(wrong)?;
    let (head, encoding) = head.rsplit_once(';').ok_or_else(wrong)?;
    if !encoding.trim().eq_ignore_ascii_case("base64") {
        return Err(wrong());
    }
    let declared = head.get("data:".len()..).unwrap_or_default();
    parse_inline(described, declared, data)
}

fn parse_inline(
    described: &MediaFields<'_>,
    declared: &str,
    data: &str,
) -> Result<MediaInput, ValidationError> {
    let bytes = decode_base64(data)?;
    if bytes.is_empty() {
        return Err(ValidationError::new(FIELD, "holds no bytes"));
    }
    let declared_mime =
        [described.mime_type, declared].map(registered_mime).into_iter().find(|mime| is_specific(mime));
    let mime = match declared_mime {
        Some(mime) => mime,
        None => sniff::media_type(&bytes, described.kind, described.file_name).map(str::to_owned).ok_or_else(|| {
            let kind = described.kind.as_str();
            let reason = format!("does not look like any {kind} that WhatsApp takes; if it is one, say which with data:<mime>;base64,… or mime_type");
            ValidationError::new(FIELD, reason)
        })?,
    };
    Ok(MediaInput::Inline { bytes: bytes.into(), mime })
}

/// The media type without its parameters, under its registered name.
fn registered_mime(mime: &str) -> String {
    let essence = mime_essence(mime);
    match essence.as_str() {
        "image/jpg" => "image/jpeg".to_owned(),
        "audio/mp3" => "audio/mpeg".to_owned(),
        "audio/m4a" | "audio/x-m4a" => "audio/mp4".to_owned(),
        _ => essence,
    }
}

/// Clients that do not know the media type send a generic one.
fn is_specific(mime: &str) -> bool {
    !mime.is_empty() && mime != "application/octet-stream"
}

const LENIENT_BASE64: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

/// Decodes base64 in either alphabet, with or without padding and line breaks.
fn decode_base64(text: &str) -> Result<Vec<u8>, ValidationError> {
    let url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet: &Alphabet = if url_safe { &URL_SAFE } else { &STANDARD };
    let engine = GeneralPurpose::new(alphabet, LENIENT_BASE64);
    let lines = text.bytes().any(|byte| byte.is_ascii_whitespace());
    let decoded = if lines {
        engine.decode(text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>())
    } else {
        engine.decode(text)
    };
    decoded.map_err(|cause| {
        ValidationError::new(
            FIELD,
            format!("Formato Base64 inválido: {cause}; an address must begin with http:// or https://"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn media_fields(media_url: &str) -> MediaFields<'_> {
        MediaFields { kind: MediaKind::Image, media_url, media_id: "", mime_type: "", file_name: None }
    }

    fn parse(media_url: &str) -> Result<MediaInput, String> {
        parse_media(&media_fields(media_url)).map_err(|invalid| invalid.reason)
    }

    fn png(mime: &str) -> Result<MediaInput, String> {
        Ok(MediaInput::Inline { bytes: Bytes::from_static(PNG), mime: mime.to_owned() })
    }

    #[test]
    fn inline_bytes_are_read_in_every_form() {
        for text in [
            "data:image/png;base64,iVBORw0KGgo=",
            "DATA:image/PNG;name=a.png;BASE64,iVBORw0KGgo=",
            "data:;base64,iVBORw0KGgo",
            "data:application/octet-stream;base64,iVBORw0KGgo=",
            "iVBORw0KGgo=",
            "iVBORw0KGgo",
            "iVBO\r\nRw0K\nGgo=\n",
        ] {
            assert_eq!(parse(text), png("image/png"), "{text}");
        }
        assert_eq!(parse("data:image/jpg;base64,iVBORw0KGgo="), png("image/jpeg"));
        let said = MediaFields { mime_type: "image/webp; q=1", ..media_fields("iVBORw0KGgo=") };
        assert_eq!(parse_media(&said).map_err(|invalid| invalid.reason), png("image/webp"));
    }

    #[test]
    fn both_base64_alphabets_are_decoded() {
        assert_eq!(decode_base64("-_-_").unwrap(), decode_base64("+/+/").unwrap());
        assert!(decode_base64("+_").is_err());
    }

    #[test]
    fn urls_and_media_ids_are_passed_through() {
        assert_eq!(
            parse("HTTPS://a.example/x.png"),
            Ok(MediaInput::Link("https://a.example/x.png".parse().unwrap()))
        );
        let by_id = MediaFields { media_id: "1013859600285441", ..media_fields("") };
        assert_eq!(parse_media(&by_id), Ok(MediaInput::ProviderId("1013859600285441".to_owned())));
    }

    #[test]
    fn invalid_media_is_rejected_with_a_reason() {
        for (text, says) in [
            ("", "requerido"),
            ("ftp://a.example/x.png", "http(s)"),
            ("http://", "not a URL"),
            ("data:image/png,abc", "form"),
            ("data:image/png;base64", "form"),
            ("data:image/png;base64,", "no bytes"),
            ("foto.png", "Base64"),
            ("aG9sYQ==", "mime_type"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(says), "{text}: {reason}");
        }
        let both = MediaFields { media_id: "1", ..media_fields("iVBORw0KGgo=") };
        assert!(parse_media(&both).is_err());
    }
}
