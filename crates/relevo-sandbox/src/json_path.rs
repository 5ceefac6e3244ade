//! A value in a request's JSON together with its path, for validation and error messages.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::errors::{GraphError, code};

/// A value and its path. Lives on the stack; the path is formatted only for an error.
#[derive(Debug, Clone, Copy)]
pub struct JsonPath<'v, 'c> {
    value: &'v Value,
    step: PathStep<'c>,
    parent: Option<&'c JsonPath<'v, 'c>>,
    /// The error code for an invalid value at this path.
    code: u32,
}

#[derive(Debug, Clone, Copy)]
enum PathStep<'c> {
    Root,
    Key(&'c str),
    Index(usize),
}

impl<'v, 'c> JsonPath<'v, 'c> {
    /// The root of a request's body.
    pub fn root(value: &'v Value) -> Self {
        Self { value, step: PathStep::Root, parent: None, code: code::PARAMETER }
    }

    /// The same path with another error code, which also applies to all values below.
    pub fn with_code(self, code: u32) -> Self {
        Self { code, ..self }
    }

    /// The value at this path.
    pub fn value(&self) -> &'v Value {
        self.value
    }

    /// The member with this name; a null member counts as absent.
    pub fn get<'n>(&'n self, key: &'n str) -> Option<JsonPath<'v, 'n>>
    where
        'c: 'n,
    {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(JsonPath { value, step: PathStep::Key(key), parent: Some(self), code: self.code })
    }

    /// The member with this name.
    ///
    /// # Errors
    /// The member is absent.
    pub fn require<'n>(&'n self, key: &'n str) -> Result<JsonPath<'v, 'n>, GraphError>
    where
        'c: 'n,
    {
        self.get(key).ok_or_else(|| self.missing(key))
    }

    /// The member with this name, which must be an object.
    ///
    /// # Errors
    /// The member is absent or not an object.
    pub fn object<'n>(&'n self, key: &'n str) -> Result<JsonPath<'v, 'n>, GraphError>
    where
        'c: 'n,
    {
        let member = self.require(key)?;
        if member.value.is_object() { Ok(member) } else { Err(member.invalid("must be a JSON object.")) }
    }

    /// The elements of an array whose length is within `count`.
    ///
    /// # Errors
    /// The value is not an array, or its length is out of range.
    pub fn items<'n>(
        &'n self,
        count: RangeInclusive<usize>,
    ) -> Result<impl ExactSizeIterator<Item = JsonPath<'v, 'n>>, GraphError>
    where
        'c: 'n,
    {
        let Value::Array(items) = self.value else { return Err(self.invalid("must be an array.")) };
        if !count.contains(&items.len()) {
            let (least, most) = (count.start(), count.end());
            return Err(self.invalid(format_args!(
                "must have between {least} and {most} elements, not {}.",
                items.len()
            )));
        }
        let element = |(index, value)| JsonPath {
            value,
            step: PathStep::Index(index),
            parent: Some(self),
            code: self.code,
        };
        Ok(items.iter().enumerate().map(element))
    }

    /// The value as a string.
    ///
    /// # Errors
    /// The value is not a string.
    pub fn str(&self) -> Result<&'v str, GraphError> {
        self.value.as_str().ok_or_else(|| self.invalid("must be a string."))
    }

    /// A string whose number of characters is within `length`.
    ///
    /// # Errors
    /// The value is not a string, or its length is out of range.
    pub fn text(&self, length: RangeInclusive<usize>) -> Result<&'v str, GraphError> {
        let text = self.str()?;
        // There are never more characters than bytes: most texts need no counting.
        if text.len() > *length.end() && text.chars().count() > *length.end() {
            return Err(self.invalid(format_args!("must be at most {} characters long.", length.end())));
        }
        if text.len() < *length.start() {
            return Err(self.invalid(format_args!("must be at least {} characters long.", length.start())));
        }
        Ok(text)
    }

    /// A member that must be a string within `length`.
    ///
    /// # Errors
    /// The member is absent, not a string, or its length is out of range.
    pub fn required_text(&self, key: &str, length: RangeInclusive<usize>) -> Result<&'v str, GraphError> {
        self.require(key)?.text(length)
    }

    /// An optional member that must be a string within `length`.
    ///
    /// # Errors
    /// The member is not a string, or its length is out of range.
    pub fn optional_text(
        &self,
        key: &str,
        length: RangeInclusive<usize>,
    ) -> Result<Option<&'v str>, GraphError> {
        self.get(key).map(|member| member.text(length)).transpose()
    }

    /// One of the allowed strings.
    ///
    /// # Errors
    /// The value is another string or not a string.
    pub fn one_of(&self, allowed: &[&str]) -> Result<&'v str, GraphError> {
        let given = self.str()?;
        if allowed.contains(&given) {
            return Ok(given);
        }
        Err(self.invalid(format_args!("must be one of {{{}}} - got \"{given}\".", allowed.join(", "))))
    }

    /// An absolute http or https URL.
    ///
    /// # Errors
    /// The value is not such a URL.
    pub fn http_url(&self) -> Result<&'v str, GraphError> {
        let given = self.text(1..=2000)?;
        let parsed = url::Url::parse(given).ok();
        if parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return Ok(given);
        }
        Err(self.invalid("must be an absolute http or https URL."))
    }

    /// The error for an invalid value at this path. `why` completes "Param x …".
    pub fn invalid(&self, why: impl fmt::Display) -> GraphError {
        GraphError::new(self.code).details(format!("Param {self} {why}"))
    }

    /// The error for an absent member `key`.
    pub fn missing(&self, key: &str) -> GraphError {
        match self.step {
            PathStep::Root => {
                GraphError::new(code::PARAMETER).message(format!("The parameter {key} is required."))
            }
            _ => GraphError::new(code::PARAMETER_MISSING)
                .details(format!("Param {self}['{key}'] is required.")),
        }
    }
}

impl fmt::Display for JsonPath<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match (self.step, parent.parent) {
            (PathStep::Root, _) => Ok(()),
            (PathStep::Key(key), None) => f.write_str(key),
            (PathStep::Key(key), Some(_)) => write!(f, "['{key}']"),
            (PathStep::Index(index), _) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn path_is_displayed_in_meta_format() {
        let body = json!({ "interactive": { "action": { "buttons": [{ "reply": {} }] } } });
        let root = JsonPath::root(&body);
        let interactive = root.get("interactive").unwrap();
        let action = interactive.get("action").unwrap();
        let buttons = action.get("buttons").unwrap();
        let button = buttons.items(1..=3).unwrap().next().unwrap();
        assert_eq!(button.get("reply").unwrap().to_string(), "interactive['action']['buttons'][0]['reply']");
    }

    #[test]
    fn text_length_is_counted_in_characters() {
        let body = json!({ "title": "ñandúñandúñandúñandú" });
        let root = JsonPath::root(&body);
        assert!(root.required_text("title", 1..=20).is_ok());
        assert_eq!(root.required_text("title", 1..=19).unwrap_err().code, 100);
    }
}
