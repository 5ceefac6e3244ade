//! The fields of a JSON object from loosely typed clients: an empty value counts as missing, and a number is accepted
//! for a text.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::http::api::error::ApplicationError;
use crate::http::api::texts::{EMPTY_BODY_ERROR, invalid_json, type_name};
use relevo_domain::ValidationError;

/// The fields of a request, or of one recipient in it.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct JsonFields<'a>(&'a Map<String, Value>);

/// Parses a body, whatever `Content-Type` the request has.
///
/// # Errors
///
/// The body is empty or not a JSON object.
pub(super) fn parse(body: &[u8]) -> Result<Map<String, Value>, ApplicationError> {
    if body.trim_ascii().is_empty() {
        return Err(ApplicationError::invalid(EMPTY_BODY_ERROR));
    }
    let wrong = |cause: String| ApplicationError::invalid(invalid_json(&cause));
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(wrong(format!("el cuerpo es {}", type_name(&other)))),
        Err(cause) => Err(wrong(cause.to_string())),
    }
}

impl<'a> JsonFields<'a> {
    /// The fields of an object.
    pub fn new(fields: &'a Map<String, Value>) -> Self {
        Self(fields)
    }

    /// The fields of an object; `None` for anything else.
    pub fn from_value(value: &'a Value) -> Option<Self> {
        value.as_object().map(Self)
    }

    /// Whether the object has no fields.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// A field that is not empty: not `null`, `false`, `0`, `""`, `[]` or `{}`.
    pub fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| is_truthy(value))
    }

    /// Whether none of these fields is empty.
    pub fn has(self, names: &[&str]) -> bool {
        names.iter().all(|name| self.get(name).is_some())
    }

    /// A text, or a number as its digits.
    ///
    /// # Errors
    ///
    /// The field is neither a text nor a number.
    pub fn text(self, name: &str) -> Result<Option<Cow<'a, str>>, ValidationError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(Cow::Borrowed(text))),
            Some(Value::Number(number)) => Ok(Some(Cow::Owned(number.to_string()))),
            Some(_) => Err(ValidationError::new(name, "must be a text")),
        }
    }

    /// The same as an owned text; empty if it is missing.
    ///
    /// # Errors
    ///
    /// The field is neither a text nor a number.
    pub fn string(self, name: &str) -> Result<String, ValidationError> {
        Ok(self.text(name)?.unwrap_or_default().into_owned())
    }

    /// The same as an owned text; `None` if it is missing.
    pub fn optional(self, name: &str) -> Result<Option<String>, ValidationError> {
        Ok(self.text(name)?.map(Cow::into_owned))
    }

    /// An array that is not empty.
    pub fn list(self, name: &str) -> Option<&'a [Value]> {
        self.get(name)?.as_array().map(Vec::as_slice)
    }

    /// `true`, `1` or `"true"`, and their opposites.
    ///
    /// # Errors
    ///
    /// The field is not a boolean in one of these forms.
    pub fn flag(self, name: &str, default: bool) -> Result<bool, ValidationError> {
        let wrong = || ValidationError::new(name, "must be true or false");
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::Number(number)) => match number.as_u64() {
                Some(0) => Ok(false),
                Some(1) => Ok(true),
                _ => Err(wrong()),
            },
            Some(Value::String(text)) => match text.trim().to_ascii_lowercase().as_str() {
                "" => Ok(default),
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(wrong()),
            },
            Some(_) => Err(wrong()),
        }
    }
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn empty_value_counts_as_missing() {
        let value =
            json!({ "a": "", "b": 0, "c": [], "d": {}, "e": null, "f": false, "g": 0.0, "h": " ", "i": 5 });
        let fields = JsonFields::from_value(&value).unwrap();
        assert!(["a", "b", "c", "d", "e", "f", "g", "z"].iter().all(|name| fields.get(name).is_none()));
        assert!(fields.has(&["h", "i"]) && !fields.has(&["h", "a"]));
        assert_eq!(fields.text("i").unwrap().as_deref(), Some("5"));
    }

    #[test]
    fn flag_is_read_in_every_usual_spelling() {
        let cases = [
            (json!(true), Some(true)),
            (json!("True"), Some(true)),
            (json!(1), Some(true)),
            (json!("1"), Some(true)),
            (json!(false), Some(false)),
            (json!("false"), Some(false)),
            (json!(0), Some(false)),
            (json!("0"), Some(false)),
            (json!(null), Some(true)),
            (json!(""), Some(true)),
            (json!("yes"), None),
            (json!(2), None),
            (json!([1]), None),
        ];
        for (flag, expected) in cases {
            let value = json!({ "use_queue": flag });
            let read = JsonFields::from_value(&value).unwrap().flag("use_queue", true).ok();
            assert_eq!(read, expected, "{value}");
        }
    }
}
