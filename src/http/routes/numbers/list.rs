//! `GET /api/numbers`.

use axum::Json;
use axum::extract::State;

use super::dto::{Number, NumberList, NumberQuery};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::{ApplicationError, ApplicationErrorBody};
use crate::http::api::extract::ApplicationQuery;

/// Maximum number of entries of a page.
const MAX_NUMBERS: usize = 1000;

/// Lists the numbers, the latest change first.
#[utoipa::path(get, path = "/api/numbers", operation_id = "list_numbers", tag = "numbers", params(NumberQuery), responses(
    (status = 200, description = "Up to 1000 numbers.", body = NumberList),
    (status = 400, description = "A parameter is wrong.", body = ApplicationErrorBody),
))]
pub async fn list(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    ApplicationQuery(query): ApplicationQuery<NumberQuery>,
) -> Result<Json<NumberList>, ApplicationError> {
    let limit = query.limit.unwrap_or(MAX_NUMBERS);
    if !(1..=MAX_NUMBERS).contains(&limit) {
        return Err(ApplicationError::invalid(format!("limit must be 1 to {MAX_NUMBERS}")));
    }
    let listed = state.services.numbers.list(query.after, limit).await?;
    let numbers = listed.entries.into_iter().map(Number::from).collect();
    let next = listed.next.map(|place| place.to_string());
    Ok(Json(NumberList { success: true, numbers, total: listed.total, next }))
}
