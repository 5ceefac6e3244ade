//! Detection of media types by the first bytes of a file, for media without a declared type.

use relevo_domain::MediaKind;

/// The media type of `bytes`; `None` when WhatsApp does not accept it or it cannot be detected.
pub(super) fn media_type(bytes: &[u8], kind: MediaKind, file_name: Option<&str>) -> Option<&'static str> {
    by_signature(bytes, kind, file_name).or_else(|| {
        // Text has no signature: a document in valid UTF-8 is text.
        (kind == MediaKind::Document && std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0')))
            .then_some("text/plain")
    })
}

fn by_signature(bytes: &[u8], kind: MediaKind, file_name: Option<&str>) -> Option<&'static str> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => Some(iso_media_type(brand, kind)),
        [b'O', b'g', b'g', b'S', ..] => Some("audio/ogg"),
        [b'#', b'!', b'A', b'M', b'R', ..] => Some("audio/amr"),
        [b'I', b'D', b'3', ..] => Some("audio/mpeg"),
        // A frame's sync word and its layer: 00 in ADTS (AAC), 01 in MPEG layer III.
        [0xFF, second, ..] if second & 0xF6 == 0xF0 => Some("audio/aac"),
        [0xFF, second, ..] if second & 0xE6 == 0xE2 => Some("audio/mpeg"),
        [b'%', b'P', b'D', b'F', b'-', ..] => Some("application/pdf"),
        [b'P', b'K', 3, 4, ..] => office_type(file_name, ["docx", "xlsx", "pptx"], OFFICE_OPEN_XML_TYPES),
        [0xD0, 0xCF, 0x11, 0xE0, ..] => office_type(file_name, ["doc", "xls", "ppt"], OFFICE_BINARY_TYPES),
        _ => None,
    }
}

/// MP4 and related formats, by their brand; the container is the same for audio and video.
fn iso_media_type(brand: &[u8], kind: MediaKind) -> &'static str {
    match brand {
        [b'3', b'g', ..] => "video/3gpp",
        [b'M', b'4', b'A' | b'B', ..] => "audio/mp4",
        _ if kind == MediaKind::Audio => "audio/mp4",
        _ => "video/mp4",
    }
}

const OFFICE_OPEN_XML_TYPES: [&str; 3] = [
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
];

const OFFICE_BINARY_TYPES: [&str; 3] =
    ["application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"];

/// Office documents share a container; only the file name distinguishes them.
fn office_type(
    file_name: Option<&str>,
    extensions: [&str; 3],
    types: [&'static str; 3],
) -> Option<&'static str> {
    let (_, extension) = file_name?.rsplit_once('.')?;
    let place = extensions.iter().position(|known| extension.eq_ignore_ascii_case(known))?;
    types.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First bytes, kind of message, file name, and the expected media type.
    type Case<'a> = (&'a [u8], MediaKind, Option<&'a str>, Option<&'a str>);

    #[test]
    fn media_type_is_detected_from_the_first_bytes() {
        use MediaKind::*;
        let cases: &[Case<'_>] = &[
            (b"\xFF\xD8\xFF\xE0rest", Image, None, Some("image/jpeg")),
            (b"\x89PNG\r\n\x1a\n", Image, None, Some("image/png")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Sticker, None, Some("image/webp")),
            (b"\0\0\0\x18ftypisom", Video, None, Some("video/mp4")),
            (b"\0\0\0\x18ftypisom", Audio, None, Some("audio/mp4")),
            (b"\0\0\0\x18ftypM4A ", Audio, None, Some("audio/mp4")),
            (b"\0\0\0\x18ftyp3gp4", Video, None, Some("video/3gpp")),
            (b"OggS\0", Audio, None, Some("audio/ogg")),
            (b"ID3\x03", Audio, None, Some("audio/mpeg")),
            (b"\xFF\xFB\x90", Audio, None, Some("audio/mpeg")),
            (b"\xFF\xF1\x50", Audio, None, Some("audio/aac")),
            (b"#!AMR\n", Audio, None, Some("audio/amr")),
            (b"%PDF-1.7", Document, None, Some("application/pdf")),
            (b"PK\x03\x04", Document, Some("Plan.XLSX"), Some(OFFICE_OPEN_XML_TYPES[1])),
            (b"PK\x03\x04\xFF", Document, Some("plan.zip"), None),
            (b"\xD0\xCF\x11\xE0", Document, Some("a.b.doc"), Some(OFFICE_BINARY_TYPES[0])),
            ("año,precio\n".as_bytes(), Document, None, Some("text/plain")),
            (b"hola", Image, None, None),
            (b"", Image, None, None),
        ];
        for (bytes, kind, name, expected) in cases {
            assert_eq!(media_type(bytes, *kind, *name), *expected, "{bytes:?} as {kind:?}");
        }
    }
}
