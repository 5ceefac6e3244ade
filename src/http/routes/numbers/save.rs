//! `POST /api/numbers`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::dto::{NewNumber, NumberSavedResponse};
use super::required_phone;
use crate::address_book::SaveOutcome;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::{ApplicationError, ApplicationErrorBody};
use crate::http::api::extract::{self, ApplicationJson};

/// Saves a number and replaces its previous data.
#[utoipa::path(post, path = "/api/numbers", operation_id = "save_number", tag = "numbers", request_body = NewNumber,
    responses(
        (status = 201, description = "It is saved, durably.", body = NumberSavedResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
        (status = 413, description = "The name or the data is too large.", body = ApplicationErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ApplicationErrorBody),
    ))]
pub async fn save(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    ApplicationJson(mut body): ApplicationJson,
) -> Result<(StatusCode, Json<NumberSavedResponse>), ApplicationError> {
    let phone = required_phone(&mut body)?;
    let name = extract::take_text(&mut body, "name")?;
    let data = extract::take_object(&mut body, "data")?.unwrap_or_default();
    let saved = state.services.numbers.save(phone.clone(), name, data).await?;
    let (action, message) = match saved {
        SaveOutcome::Created => ("created", format!("Number {phone} added successfully")),
        SaveOutcome::Replaced => {
            ("recreated", format!("Number {phone} existed before, old record deleted and new one created"))
        }
    };
    let existed_before = saved == SaveOutcome::Replaced;
    Ok((StatusCode::CREATED, Json(NumberSavedResponse { success: true, action, message, existed_before })))
}
