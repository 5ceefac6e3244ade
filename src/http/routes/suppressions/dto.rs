//! Requests and responses of the suppression list.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::page;
use crate::http::phone_text::PhoneText;
use crate::suppression::SuppressionEntry;

/// An entry of the suppression list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Suppression {
    #[schema(example = "573001234567")]
    phone: String,
    /// `api`, `file`, `opted_out`, `preference` or `keyword`.
    #[schema(example = "keyword")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// When it was added.
    created_at: String,
}

/// One entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionResponse {
    pub(super) success: bool,
    pub(super) data: Suppression,
}

/// The phones to add: one of `phone` and `phones`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewSuppressions<'a> {
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    pub(super) phone: Option<PhoneText<'a>>,
    /// Up to 10000.
    #[serde(default, borrow)]
    #[schema(value_type = Vec<String>)]
    pub(super) phones: Vec<PhoneText<'a>>,
    /// A note of up to 512 bytes.
    #[serde(default)]
    pub(super) note: Option<String>,
}

/// The number of added entries.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionsAddedResponse {
    pub(super) success: bool,
    pub(super) data: SuppressionCounts,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SuppressionCounts {
    pub(super) added: u64,
    /// The number of phones that were on the list already.
    pub(super) already: u64,
}

/// The result of an import.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionImportResponse {
    pub(super) success: bool,
    pub(super) data: SuppressionImportResult,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct SuppressionImportResult {
    pub(super) added: u64,
    /// The number of phones that were on the list already.
    pub(super) already: u64,
    /// The number of invalid lines.
    pub(super) invalid_total: u64,
    /// The first 100 of them.
    pub(super) invalid: Vec<InvalidLine>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InvalidLine {
    /// The line number, from 1.
    pub(super) line: u64,
    pub(super) reason: String,
}

/// The entry was removed.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionDeletedResponse {
    pub(super) success: bool,
}

/// The query of the suppression list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SuppressionQuery {
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    pub(super) after: Option<String>,
    /// 1 to 500; 50 without it.
    pub(super) limit: Option<usize>,
}

impl From<SuppressionEntry> for Suppression {
    fn from(entry: SuppressionEntry) -> Self {
        Self {
            phone: entry.recipient.to_string(),
            reason: entry.reason.as_str(),
            note: entry.note,
            created_at: entry.at.to_string(),
        }
    }
}
