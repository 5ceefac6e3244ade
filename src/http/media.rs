//! Where the bytes of a media message are, in the ways in which callers say it.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use url::Url;

use relevo_domain::{Invalid, MediaKind};

use super::sniff;

/// The media of a request.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    /// On the web.
    Link(Url),
    /// In the request itself.
    Inline { bytes: Bytes, mime: String },
    /// At WhatsApp.
    ProviderId(String),
}

/// What a request says about its media.
pub(super) struct Described<'a> {
    pub kind: MediaKind,
    /// An address, a `data:` URI or bare base64.
    pub media_url: &'a str,
    pub media_id: &'a str,
    /// What the caller says it is; wins over what the bytes look like.
    pub mime_type: &'a str,
    pub file_name: Option<&'a str>,
}

const FIELD: &str = "media_url";

/// Finds the media of a request; decodes it when it is inside.
pub(super) fn find(described: &Described<'_>) -> Result<Source, Invalid> {
    let text = described.media_url.trim();
    match (text.is_empty(), described.media_id.is_empty()) {
        (true, true) => {
            Err(Invalid::new(FIELD, "media_url es requerido: an http(s) URL, a data: URI or base64"))
        }
        (false, false) => Err(Invalid::new(FIELD, "give media_url or media_id, not both")),
        (true, false) => Ok(Source::ProviderId(described.media_id.to_owned())),
        (false, true) if has_scheme(text, "http://") || has_scheme(text, "https://") => {
            match Url::parse(text) {
                Ok(url) => Ok(Source::Link(url)),
                Err(cause) => Err(Invalid::new(FIELD, format!("is not a URL: {cause}"))),
            }
        }
        (false, true) if has_scheme(text, "data:") => data_uri(described, text),
        (false, true) if text.contains(':') => {
            Err(Invalid::new(FIELD, "must be an http(s) URL, a data: URI or base64"))
        }
        (false, true) => inline(described, "", text),
    }
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// `data:<media type>[;parameters];base64,<data>` (RFC 2397).
fn data_uri(described: &Described<'_>, text: &str) -> Result<Source, Invalid> {
    let wrong = || Invalid::new(FIELD, "a data: URI must have the form data:<mime>;base64,<data>");
    let (head, data) = text.split_once(',').ok_or_else(wrong)?;
    let (head, encoding) = head.rsplit_once(';').ok_or_else(wrong)?;
    if !encoding.trim().eq_ignore_ascii_case("base64") {
        return Err(wrong());
    }
    let declared = head.get("data:".len()..).unwrap_or_default();
    inline(described, declared, data)
}

fn inline(described: &Described<'_>, declared: &str, data: &str) -> Result<Source, Invalid> {
    let bytes = decode(data)?;
    if bytes.is_empty() {
        return Err(Invalid::new(FIELD, "holds no bytes"));
    }
    let told = [described.mime_type, declared].map(essence).into_iter().find(|mime| says_something(mime));
    let mime = match told {
        Some(mime) => mime,
        None => sniff::media_type(&bytes, described.kind, described.file_name).map(str::to_owned).ok_or_else(|| {
            let kind = described.kind.as_str();
            let reason = format!("does not look like any {kind} that WhatsApp takes; if it is one, say which with data:<mime>;base64,… or mime_type");
            Invalid::new(FIELD, reason)
        })?,
    };
    Ok(Source::Inline { bytes: bytes.into(), mime })
}

/// The media type alone, lower-case, without parameters, under its registered name.
fn essence(mime: &str) -> String {
    let essence = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "image/jpg" => "image/jpeg".to_owned(),
        "audio/mp3" => "audio/mpeg".to_owned(),
        "audio/m4a" | "audio/x-m4a" => "audio/mp4".to_owned(),
        _ => essence,
    }
}

/// Programs that do not know what they send say "bytes".
fn says_something(mime: &str) -> bool {
    !mime.is_empty() && mime != "application/octet-stream"
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

/// Decodes base64 in either alphabet, with or without padding, in one line or many.
fn decode(text: &str) -> Result<Vec<u8>, Invalid> {
    let url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet: &Alphabet = if url_safe { &URL_SAFE } else { &STANDARD };
    let engine = GeneralPurpose::new(alphabet, LENIENT);
    let lines = text.bytes().any(|byte| byte.is_ascii_whitespace());
    let decoded = if lines {
        engine.decode(text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>())
    } else {
        engine.decode(text)
    };
    decoded.map_err(|cause| {
        Invalid::new(
            FIELD,
            format!("Formato Base64 inválido: {cause}; an address must begin with http:// or https://"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn described(media_url: &str) -> Described<'_> {
        Described { kind: MediaKind::Image, media_url, media_id: "", mime_type: "", file_name: None }
    }

    fn found(media_url: &str) -> Result<Source, String> {
        find(&described(media_url)).map_err(|invalid| invalid.reason)
    }

    fn png(mime: &str) -> Result<Source, String> {
        Ok(Source::Inline { bytes: Bytes::from_static(PNG), mime: mime.to_owned() })
    }

    #[test]
    fn every_way_to_carry_bytes_is_understood() {
        for text in [
            "data:image/png;base64,iVBORw0KGgo=",
            "DATA:image/PNG;name=a.png;BASE64,iVBORw0KGgo=",
            "data:;base64,iVBORw0KGgo",
            "data:application/octet-stream;base64,iVBORw0KGgo=",
            "iVBORw0KGgo=",
            "iVBORw0KGgo",
            "iVBO\r\nRw0K\nGgo=\n",
        ] {
            assert_eq!(found(text), png("image/png"), "{text}");
        }
        assert_eq!(found("data:image/jpg;base64,iVBORw0KGgo="), png("image/jpeg"));
        let said = Described { mime_type: "image/webp; q=1", ..described("iVBORw0KGgo=") };
        assert_eq!(find(&said).map_err(|invalid| invalid.reason), png("image/webp"));
    }

    #[test]
    fn both_alphabets_are_read() {
        assert_eq!(decode("-_-_").unwrap(), decode("+/+/").unwrap());
        assert!(decode("+_").is_err());
    }

    #[test]
    fn addresses_and_ids_are_passed_on() {
        assert_eq!(
            found("HTTPS://a.example/x.png"),
            Ok(Source::Link("https://a.example/x.png".parse().unwrap()))
        );
        let by_id = Described { media_id: "1013859600285441", ..described("") };
        assert_eq!(find(&by_id), Ok(Source::ProviderId("1013859600285441".to_owned())));
    }

    #[test]
    fn what_is_neither_is_refused_with_the_reason() {
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
            let reason = found(text).unwrap_err();
            assert!(reason.contains(says), "{text}: {reason}");
        }
        let both = Described { media_id: "1", ..described("iVBORw0KGgo=") };
        assert!(find(&both).is_err());
    }
}
