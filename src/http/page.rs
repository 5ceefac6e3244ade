//! Lists that are given in pages.

use serde::Serialize;
use utoipa::ToSchema;

use relevo_domain::ValidationError;

/// Entries of a page when nobody says how many.
const DEFAULT_LIMIT: usize = 50;

/// The most entries of a page.
const MAX_LIMIT: usize = 500;

/// A page of a list. `next`, when there is one, is the `after` of the next page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PageResponse<T> {
    success: bool,
    data: Vec<T>,
    /// Give it as `after` to go on. Not there on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl<T> PageResponse<T> {
    /// What was found with `limit`; `cursor` names the place behind the last entry.
    pub fn new<F>(found: Vec<F>, limit: usize, cursor: impl Fn(&F) -> Option<String>) -> Self
    where
        T: From<F>,
    {
        let full = found.len() >= limit;
        let next = found.last().filter(|_| full).and_then(cursor);
        Self { success: true, data: found.into_iter().map(T::from).collect(), next }
    }
}

/// How many entries to look for.
pub(super) fn validate_limit(asked: Option<usize>) -> Result<usize, ValidationError> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(ValidationError::new("limit", format!("must be 1 to {MAX_LIMIT}"))),
    }
}
