//! Media types.

/// The media type without its parameters, in lower case.
pub fn mime_essence(mime: &str) -> String {
    mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn essence_has_no_parameters() {
        for mime in ["audio/ogg", "audio/ogg; codecs=opus", " Audio/OGG ;codecs=opus"] {
            assert_eq!(mime_essence(mime), "audio/ogg", "{mime}");
        }
        assert_eq!(mime_essence(""), "");
    }
}
