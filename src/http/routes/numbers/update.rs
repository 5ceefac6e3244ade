//! `PATCH /api/numbers/{phone}`, `PATCH /api/numbers/update`, `PATCH /api/numbers/bulk-update`.

use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::dto::{
    BulkNumberChanges, BulkNumberResult, BulkNumberResults, BulkNumbersResponse, NumberActionResponse,
    NumberChanges,
};
use super::{NUMBER_NOT_FOUND, apply_changes, required_data, required_phone};
use crate::address_book;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::{ApplicationError, ApplicationErrorBody};
use crate::http::api::extract::{self, ApplicationJson, PhonePath};

/// Merges the body into the data of a number, key by key; `"__DELETE__"` removes a key.
#[utoipa::path(patch, path = "/api/numbers/{phone}", operation_id = "change_number", tag = "numbers",
    request_body = Object, params(PhonePath), responses(
        (status = 200, description = "It is updated, durably.", body = NumberActionResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
        (status = 404, description = "No such number.", body = NumberActionResponse),
        (status = 413, description = "The data would become too large.", body = ApplicationErrorBody),
    ))]
pub async fn change(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    PhonePath(phone): PhonePath,
    ApplicationJson(body): ApplicationJson,
) -> Result<Response, ApplicationError> {
    if body.is_empty() {
        return Err(ApplicationError::invalid("No data provided"));
    }
    apply_changes(&state, phone, body).await
}

/// The same, with the phone in the body.
#[utoipa::path(patch, path = "/api/numbers/update", operation_id = "update_number", tag = "numbers",
    request_body = NumberChanges, responses(
        (status = 200, description = "It is updated, durably.", body = NumberActionResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
        (status = 404, description = "No such number.", body = NumberActionResponse),
        (status = 413, description = "The data would become too large.", body = ApplicationErrorBody),
    ))]
pub async fn update(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    ApplicationJson(mut body): ApplicationJson,
) -> Result<Response, ApplicationError> {
    let phone = required_phone(&mut body)?;
    let data = required_data(&mut body)?;
    apply_changes(&state, phone, data).await
}

/// The same for many numbers. Each is changed independently.
#[utoipa::path(patch, path = "/api/numbers/bulk-update", operation_id = "update_numbers", tag = "numbers",
    request_body = BulkNumberChanges, responses(
        (status = 200, description = "The result of each.", body = BulkNumbersResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
    ))]
pub async fn bulk_update(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    ApplicationJson(mut body): ApplicationJson,
) -> Result<Json<BulkNumbersResponse>, ApplicationError> {
    let phones = extract::take_texts(&mut body, "phones")?;
    let phones = phones.ok_or_else(|| ApplicationError::invalid("phones list is required"))?;
    let data = required_data(&mut body)?;
    let outcomes = state.services.numbers.change_all(phones.clone(), data).await?;
    let error = |outcome: Result<bool, address_book::Error>| match outcome {
        Ok(true) => None,
        Ok(false) => Some(NUMBER_NOT_FOUND.to_owned()),
        Err(refused) => Some(refused.to_string()),
    };
    let details: Vec<_> = phones
        .into_iter()
        .zip(outcomes.into_iter().map(error))
        .map(|(phone, error)| BulkNumberResult { phone, success: error.is_none(), error })
        .collect();
    let total = details.len();
    let successful = details.iter().filter(|detail| detail.success).count();
    let failed = total - successful;
    let message = format!("Bulk update completed: {successful} successful, {failed} failed");
    let results = BulkNumberResults { total, successful, failed, details };
    Ok(Json(BulkNumbersResponse { success: true, message, results }))
}
