//! `/api/numbers`: an address book that its callers fill.

pub(in crate::http) mod clear;
pub(in crate::http) mod delete;
mod dto;
pub(in crate::http) mod exists;
pub(in crate::http) mod get;
pub(in crate::http) mod list;
pub(in crate::http) mod save;
pub(in crate::http) mod update;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::http::AppState;
use crate::http::api::error::ApplicationError;
use crate::http::api::extract;
use dto::NumberActionResponse;

const NUMBER_NOT_FOUND: &str = "Number not found";

/// The response to an operation: success, or 404.
fn action_response(done: bool, message: String) -> Response {
    if done { Json(NumberActionResponse { success: true, message }).into_response() } else { not_found() }
}

fn not_found() -> Response {
    let told = NumberActionResponse { success: false, message: NUMBER_NOT_FOUND.to_owned() };
    (StatusCode::NOT_FOUND, Json(told)).into_response()
}

fn required_phone(body: &mut Map<String, Value>) -> Result<String, ApplicationError> {
    extract::take_text(body, "phone")?.ok_or_else(|| ApplicationError::invalid("Phone number is required"))
}

fn required_data(body: &mut Map<String, Value>) -> Result<Map<String, Value>, ApplicationError> {
    extract::take_object(body, "data")?.ok_or_else(|| ApplicationError::invalid("Data object is required"))
}

async fn apply_changes(
    state: &AppState,
    phone: String,
    changes: Map<String, Value>,
) -> Result<Response, ApplicationError> {
    let found = state.services.numbers.change(phone.clone(), changes).await?;
    Ok(action_response(found, format!("Data for number {phone} updated successfully")))
}
