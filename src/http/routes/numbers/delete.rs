//! `DELETE /api/numbers/{phone}`.

use axum::extract::State;
use axum::response::Response;

use super::action_response;
use super::dto::NumberActionResponse;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;
use crate::http::api::extract::PhonePath;

/// Deletes a number.
#[utoipa::path(delete, path = "/api/numbers/{phone}", operation_id = "delete_number", tag = "numbers", params(PhonePath), responses(
    (status = 200, description = "It is deleted.", body = NumberActionResponse),
    (status = 404, description = "No such number.", body = NumberActionResponse),
))]
pub async fn delete(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    PhonePath(phone): PhonePath,
) -> Result<Response, ApplicationError> {
    let found = state.services.numbers.delete(phone.clone()).await?;
    Ok(action_response(found, format!("Number {phone} deleted successfully")))
}
