//! `GET /suppressions`.

use axum::Json;
use axum::extract::State;

use super::dto::{Suppression, SuppressionQuery};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::QueryParams;
use crate::http::page::{self, PageResponse};
use crate::suppression::SuppressionEntry;
use relevo_domain::ValidationError;

/// Lists the suppression list.
#[utoipa::path(get, path = "/suppressions", operation_id = "list_suppressions", tag = "suppressions",
    params(SuppressionQuery), responses(
        (status = 200, description = "A page.", body = PageResponse<Suppression>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(query): QueryParams<SuppressionQuery>,
) -> Result<Json<PageResponse<Suppression>>, ApiError> {
    let limit = page::validate_limit(query.limit)?;
    let wrong = |_: ValidationError| ValidationError::new("after", "must be the `next` of the page before");
    let after = query.after.as_deref().map(str::parse).transpose().map_err(wrong)?;
    let found = state.services.suppressions.list(after, limit).await?;
    Ok(Json(PageResponse::new(found, limit, |entry: &SuppressionEntry| Some(entry.recipient.to_string()))))
}
