//! `GET /webhook/kept`: deliveries that the node did not understand.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::QueryParams;
use crate::http::page::{self, PageResponse};
use crate::inbound::{QuarantineId, QuarantinedBody};
use relevo_domain::{Timestamp, ValidationError};

/// The most kept deliveries of a page.
const MAX_QUARANTINED: usize = 10;

/// A delivery that nobody understood, as it came.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuarantinedWebhook {
    received_at: String,
    /// What about it made no sense, and where.
    reason: String,
    /// Its length when it came, in bytes. What no secret vouches for is kept cut to 64 KiB.
    bytes: usize,
    /// Not there when it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The same in base64, when it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Which page of kept deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct QuarantineQuery {
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500, of which at most 10 are given at once; each may have megabytes.
    limit: Option<usize>,
}

/// Deliveries that nobody understood, the newest first. The newest 200 are kept.
#[utoipa::path(get, path = "/webhook/kept", operation_id = "list_kept_webhooks", tag = "webhook", params(QuarantineQuery),
    responses(
        (status = 200, description = "A page of them.", body = PageResponse<QuarantinedWebhook>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_quarantined(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(wanted): QueryParams<QuarantineQuery>,
) -> Result<Json<PageResponse<QuarantinedWebhook>>, ApiError> {
    let limit = page::validate_limit(wanted.limit)?.min(MAX_QUARANTINED);
    let after = wanted.after.as_deref().map(parse_cursor).transpose()?;
    let found = state.services.inbound.list_quarantined(after, limit).await?;
    let cursor = |kept: &QuarantinedBody| Some(format!("{}.{}", kept.id.at.millis(), kept.id.nonce));
    Ok(Json(PageResponse::new(found, limit, cursor)))
}

/// The place that a page's `next` names.
fn parse_cursor(cursor: &str) -> Result<QuarantineId, ValidationError> {
    let parts = cursor.split_once('.').and_then(|(at, nonce)| {
        Some(QuarantineId { at: Timestamp(at.parse().ok()?), nonce: nonce.parse().ok()? })
    });
    parts.ok_or_else(|| ValidationError::new("after", "must be the `next` of the page before"))
}

impl From<QuarantinedBody> for QuarantinedWebhook {
    fn from(kept: QuarantinedBody) -> Self {
        let text = std::str::from_utf8(&kept.body).ok().map(str::to_owned);
        Self {
            received_at: kept.id.at.to_string(),
            reason: kept.reason,
            bytes: kept.size,
            body_base64: text.is_none().then(|| STANDARD.encode(&kept.body)),
            body: text,
        }
    }
}
