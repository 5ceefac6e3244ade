//! A place in a request's JSON that knows its path, for checking and for saying what was wrong where.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::errors::{GraphError, code};

/// A value and the way to it. Lives on the stack; the path is written out only when something is wrong.
#[derive(Debug, Clone, Copy)]
pub struct JsonPath<'v, 'c> {
    value: &'v Value,
    step: PathStep<'c>,
    parent: Option<&'c JsonPath<'v, 'c>>,
    /// The code under which a wrong value is refused here.
    code: u32,
}

#[derive(Debug, Clone, Copy)]
enum PathStep<'c> {
    Root,
    Key(&'c str),
    Index(usize),
}

impl<'v, 'c> JsonPath<'v, 'c> {
    pub fn root(value: &'v Value) -> Self {
        Self { value, step: PathStep::Root, parent: None, code: code::PARAMETER }
    }

    /// The same place, and all below it, refusing wrong values under another code.
    pub fn with_code(self, code: u32) -> Self {
        Self { code, ..self }
    }

    pub fn value(&self) -> &'v Value {
        self.value
    }

    /// The member of this name; one that is null counts as absent.
    pub fn get<'n>(&'n self, key: &'n str) -> Option<JsonPath<'v, 'n>>
    where
        'c: 'n,
    {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(JsonPath { value, step: PathStep::Key(key), parent: Some(self), code: self.code })
    }

    pub fn require<'n>(&'n self, key: &'n str) -> Result<JsonPath<'v, 'n>, GraphError>
    where
        'c: 'n,
    {
        self.get(key).ok_or_else(|| self.missing(key))
    }

    /// A member that must be an object.
    pub fn object<'n>(&'n self, key: &'n str) -> Result<JsonPath<'v, 'n>, GraphError>
    where
        'c: 'n,
    {
        let member = self.require(key)?;
        if member.value.is_object() { Ok(member) } else { Err(member.invalid("must be a JSON object.")) }
    }

    /// The elements of an array with as many of them as `count` permits.
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
        let here = |(index, value)| JsonPath {
            value,
            step: PathStep::Index(index),
            parent: Some(self),
            code: self.code,
        };
        Ok(items.iter().enumerate().map(here))
    }

    pub fn str(&self) -> Result<&'v str, GraphError> {
        self.value.as_str().ok_or_else(|| self.invalid("must be a string."))
    }

    /// A string with as many characters as `length` permits.
    pub fn text(&self, length: RangeInclusive<usize>) -> Result<&'v str, GraphError> {
        let text = self.str()?;
        // Characters never outnumber bytes: most texts need no counting.
        if text.len() > *length.end() && text.chars().count() > *length.end() {
            return Err(self.invalid(format_args!("must be at most {} characters long.", length.end())));
        }
        if text.len() < *length.start() {
            return Err(self.invalid(format_args!("must be at least {} characters long.", length.start())));
        }
        Ok(text)
    }

    /// A member that must be such a string.
    pub fn required_text(&self, key: &str, length: RangeInclusive<usize>) -> Result<&'v str, GraphError> {
        self.require(key)?.text(length)
    }

    /// A member that must be such a string if it is there.
    pub fn optional_text(
        &self,
        key: &str,
        length: RangeInclusive<usize>,
    ) -> Result<Option<&'v str>, GraphError> {
        self.get(key).map(|member| member.text(length)).transpose()
    }

    pub fn one_of(&self, allowed: &[&str]) -> Result<&'v str, GraphError> {
        let given = self.str()?;
        if allowed.contains(&given) {
            return Ok(given);
        }
        Err(self.invalid(format_args!("must be one of {{{}}} - got \"{given}\".", allowed.join(", "))))
    }

    /// An absolute http or https address.
    pub fn http_url(&self) -> Result<&'v str, GraphError> {
        let given = self.text(1..=2000)?;
        let parsed = url::Url::parse(given).ok();
        if parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return Ok(given);
        }
        Err(self.invalid("must be an absolute http or https URL."))
    }

    /// Something here is not as it must be. `why` continues "Param x …".
    pub fn invalid(&self, why: impl fmt::Display) -> GraphError {
        GraphError::new(self.code).details(format!("Param {self} {why}"))
    }

    /// The member `key` is not here.
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
