//! Requests and responses of the address book.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::address_book;
use crate::http::page;

/// A number of the address book.
#[derive(Debug, Serialize, ToSchema)]
pub struct Number {
    #[schema(example = "573123456789")]
    pub(super) phone: String,
    #[schema(example = "Juan Pérez")]
    pub(super) name: Option<String>,
    /// Null if there is none.
    #[schema(value_type = Option<Object>)]
    pub(super) data: Option<Map<String, Value>>,
    #[schema(example = "2025-01-16T10:00:00.000Z")]
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// Numbers, the latest change first.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberList {
    pub(super) success: bool,
    pub(super) numbers: Vec<Number>,
    /// The number of entries.
    pub(super) total: u64,
    /// The `after` of the next page. Missing on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// One number.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberResponse {
    pub(super) success: bool,
    pub(super) number: Number,
}

/// The result of an operation.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberActionResponse {
    pub(super) success: bool,
    #[schema(example = "Number not found")]
    pub(super) message: String,
}

/// A new entry of the address book.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "documents the body only; it is parsed field by field")]
pub struct NewNumber {
    /// Any text of up to 128 bytes; lookups must spell it the same way.
    #[schema(example = "573123456789")]
    phone: String,
    name: Option<String>,
    /// Up to 64 KiB of JSON.
    #[schema(value_type = Option<Object>)]
    data: Option<Map<String, Value>>,
}

/// Changes to the data of a number.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "documents the body only; it is parsed field by field")]
pub struct NumberChanges {
    phone: String,
    /// Keys to set; `"__DELETE__"` removes one.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// Changes to the data of many numbers.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "documents the body only; it is parsed field by field")]
pub struct BulkNumberChanges {
    /// Up to 10000.
    phones: Vec<String>,
    /// Keys to set; `"__DELETE__"` removes one.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// A number was saved.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberSavedResponse {
    pub(super) success: bool,
    /// `created` or `recreated`.
    #[schema(example = "created")]
    pub(super) action: &'static str,
    pub(super) message: String,
    pub(super) existed_before: bool,
}

/// Whether the number exists.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberExistsResponse {
    pub(super) success: bool,
    pub(super) exists: bool,
    pub(super) phone: String,
}

/// All numbers were deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumbersClearedResponse {
    pub(super) success: bool,
    pub(super) deleted: u64,
    pub(super) message: String,
}

/// The result of each number.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkNumbersResponse {
    pub(super) success: bool,
    pub(super) message: String,
    pub(super) results: BulkNumberResults,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkNumberResults {
    pub(super) total: usize,
    pub(super) successful: usize,
    pub(super) failed: usize,
    pub(super) details: Vec<BulkNumberResult>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkNumberResult {
    pub(super) phone: String,
    pub(super) success: bool,
    pub(super) error: Option<String>,
}

/// The query of numbers.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NumberQuery {
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    pub(super) after: Option<u64>,
    /// 1 to 1000; 1000 without it.
    pub(super) limit: Option<usize>,
}

impl From<address_book::AddressBookEntry> for Number {
    fn from(number: address_book::AddressBookEntry) -> Self {
        Self {
            phone: number.phone,
            name: number.name,
            data: Some(number.data).filter(|data| !data.is_empty()),
            created_at: number.created_at.to_string(),
            updated_at: number.updated_at.to_string(),
        }
    }
}
