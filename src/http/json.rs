//! Parsing of JSON bodies, with the path of the field in each error.

use serde::Deserialize;

use relevo_domain::ValidationError;

/// Parses a JSON object, whatever `Content-Type` the request has.
///
/// # Errors
///
/// The body is not a JSON object, or a field is invalid; the error names the field by its path.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ValidationError> {
    match body.trim_ascii_start().first() {
        Some(b'{') => {}
        None => {
            return Err(ValidationError::new("body", "JSON inválido: the body is empty; send a JSON object"));
        }
        Some(_) => return Err(ValidationError::new("body", "JSON inválido: the body must be a JSON object")),
    }
    // Tracking the path is slow, so only an invalid body is parsed with it, a second time.
    serde_json::from_slice(body).or_else(|_| parse_with_path(body))
}

fn parse_with_path<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ValidationError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        let cause = error.into_inner();
        if cause.is_data() {
            ValidationError::new(field, cause.to_string())
        } else {
            ValidationError::new("body", format!("JSON inválido: {cause}"))
        }
    })?;
    reader.end().map_err(|cause| ValidationError::new("body", format!("JSON inválido: {cause}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Outer {
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        count: u32,
    }

    fn parse_error(body: &str) -> ValidationError {
        parse::<Outer>(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn object_is_parsed() {
        assert_eq!(parse::<Outer>(br#" {"inner":{"count":3},"other":1}"#).unwrap().inner.count, 3);
    }

    #[test]
    fn error_names_the_path_of_the_field() {
        let wrong = parse_error(r#"{"inner":{"count":"many"}}"#);
        assert_eq!(wrong.field, "inner.count");
        assert!(wrong.reason.starts_with("invalid type: string \"many\", expected u32"), "{}", wrong.reason);
        let missing = parse_error(r#"{"inner":{}}"#);
        assert_eq!(missing.field, "inner");
        assert!(missing.reason.starts_with("missing field `count`"), "{}", missing.reason);
    }

    #[test]
    fn body_that_is_not_an_object_is_rejected() {
        for body in
            ["", "  ", "[1]", "\"text\"", "null", "hola", "{\"inner\":", "{\"inner\":{\"count\":1}} x"]
        {
            let wrong = parse_error(body);
            assert_eq!(wrong.field, "body", "{body}");
            assert!(wrong.reason.contains("JSON inválido"), "{body}: {}", wrong.reason);
        }
    }
}
