//! Pages of a list.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use relevo_domain::ValidationError;

/// Default number of entries of a page.
const DEFAULT_LIMIT: usize = 50;

/// Maximum number of entries of a page.
const MAX_LIMIT: usize = 500;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PageResponse<T> {
    success: bool,
    data: Vec<T>,
    /// The `after` of the next page. Missing on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl<T> PageResponse<T> {
    /// A page of the entries found with `limit`; `cursor` returns the cursor after the last entry.
    pub fn new<F>(found: Vec<F>, limit: usize, cursor: impl Fn(&F) -> Option<String>) -> Self
    where
        T: From<F>,
    {
        let full = found.len() >= limit;
        let next = found.last().filter(|_| full).and_then(cursor);
        Self { success: true, data: found.into_iter().map(T::from).collect(), next }
    }
}

/// Deserialises the `after` of a list. An empty one is the beginning of the list, like a missing one.
///
/// # Errors
///
/// The text is no cursor of this type.
pub(super) fn after<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// The number of entries to read.
///
/// # Errors
///
/// `limit` is outside the permitted range.
pub(super) fn validate_limit(limit: Option<usize>) -> Result<usize, ValidationError> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(ValidationError::new("limit", format!("must be 1 to {MAX_LIMIT}"))),
    }
}
