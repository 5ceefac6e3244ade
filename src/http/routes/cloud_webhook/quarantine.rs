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

/// Maximum number of quarantined deliveries of a page.
const MAX_QUARANTINED: usize = 10;

/// A quarantined delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuarantinedWebhook {
    received_at: String,
    /// Why it could not be parsed, and where.
    reason: String,
    /// Its original size, in bytes. Without an app secret, the stored body is truncated to 64 KiB.
    bytes: usize,
    /// Missing when it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64, when it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// The query of quarantined deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct QuarantineQuery {
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<String>,
    /// 1 to 500, of which at most 10 are returned; each may have megabytes.
    limit: Option<usize>,
}

/// Deliveries that could not be parsed, newest first. The newest 200 are kept.
#[utoipa::path(get, path = "/webhook/kept", operation_id = "list_kept_webhooks", tag = "webhook", params(QuarantineQuery),
    responses(
        (status = 200, description = "A page.", body = PageResponse<QuarantinedWebhook>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_quarantined(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(query): QueryParams<QuarantineQuery>,
) -> Result<Json<PageResponse<QuarantinedWebhook>>, ApiError> {
    let limit = page::validate_limit(query.limit)?.min(MAX_QUARANTINED);
    let after = query.after.as_deref().map(parse_cursor).transpose()?;
    let found = state.services.inbound.list_quarantined(after, limit).await?;
    let cursor =
        |delivery: &QuarantinedBody| Some(format!("{}.{}", delivery.id.at.millis(), delivery.id.nonce));
    Ok(Json(PageResponse::new(found, limit, cursor)))
}

/// Parses `after`.
fn parse_cursor(cursor: &str) -> Result<QuarantineId, ValidationError> {
    let parts = cursor.split_once('.').and_then(|(at, nonce)| {
        Some(QuarantineId { at: Timestamp(at.parse().ok()?), nonce: nonce.parse().ok()? })
    });
    parts.ok_or_else(|| ValidationError::new("after", "must be the `next` of the page before"))
}

impl From<QuarantinedBody> for QuarantinedWebhook {
    fn from(delivery: QuarantinedBody) -> Self {
        let text = std::str::from_utf8(&delivery.body).ok().map(str::to_owned);
        Self {
            received_at: delivery.id.at.to_string(),
            reason: delivery.reason,
            bytes: delivery.size,
            body_base64: text.is_none().then(|| STANDARD.encode(&delivery.body)),
            body: text,
        }
    }
}
