//! JSON bodies, and sentences about those that are none.

use serde::Deserialize;

use relevo_domain::Invalid;

/// Reads a JSON object, whatever content type the request claims; a refusal names the field by its path.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Invalid> {
    match body.trim_ascii_start().first() {
        Some(b'{') => {}
        None => return Err(Invalid::new("body", "JSON inválido: the body is empty; send a JSON object")),
        Some(_) => return Err(Invalid::new("body", "JSON inválido: the body must be a JSON object")),
    }
    // Watching the path costs time, so only a body that is wrong is read with it, a second time.
    serde_json::from_slice(body).or_else(|_| parse_watching(body))
}

fn parse_watching<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Invalid> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        let cause = error.into_inner();
        if cause.is_data() {
            Invalid::new(field, cause.to_string())
        } else {
            Invalid::new("body", format!("JSON inválido: {cause}"))
        }
    })?;
    reader.end().map_err(|cause| Invalid::new("body", format!("JSON inválido: {cause}")))?;
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

    fn refusal(body: &str) -> Invalid {
        parse::<Outer>(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_object_is_read() {
        assert_eq!(parse::<Outer>(br#" {"inner":{"count":3},"other":1}"#).unwrap().inner.count, 3);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let wrong = refusal(r#"{"inner":{"count":"many"}}"#);
        assert_eq!(wrong.field, "inner.count");
        assert!(wrong.reason.starts_with("invalid type: string \"many\", expected u32"), "{}", wrong.reason);
        let missing = refusal(r#"{"inner":{}}"#);
        assert_eq!(missing.field, "inner");
        assert!(missing.reason.starts_with("missing field `count`"), "{}", missing.reason);
    }

    #[test]
    fn what_is_no_object_is_said_to_be_none() {
        for body in
            ["", "  ", "[1]", "\"text\"", "null", "hola", "{\"inner\":", "{\"inner\":{\"count\":1}} x"]
        {
            let wrong = refusal(body);
            assert_eq!(wrong.field, "body", "{body}");
            assert!(wrong.reason.contains("JSON inválido"), "{body}: {}", wrong.reason);
        }
    }
}
