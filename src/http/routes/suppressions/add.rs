//! `POST /suppressions`.

use axum::Json;
use axum::extract::State;

use super::dto::{NewSuppressions, SuppressionCounts, SuppressionsAddedResponse};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::JsonBody;
use crate::http::phone_text::PhoneText;
use crate::http::{AppState, json};
use crate::suppression::{AddSummary, SuppressionReason};
use relevo_domain::{Recipient, RecipientParser, ValidationError};

/// Maximum number of phones of one JSON request.
const MAX_PHONES: usize = 10_000;

/// Adds phones to the suppression list. An existing entry does not change.
#[utoipa::path(post, path = "/suppressions", operation_id = "add_suppressions", tag = "suppressions",
    request_body = NewSuppressions, responses(
        (status = 200, description = "They are added, durably.", body = SuppressionsAddedResponse),
        (status = 400, description = "A phone is wrong; none was added.", body = ErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ErrorBody),
    ))]
pub async fn add(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<Json<SuppressionsAddedResponse>, ApiError> {
    let NewSuppressions { phone, phones, note } = json::parse(&body)?;
    let parser = state.recipients();
    let recipients = match (phone, phones.len()) {
        (Some(phone), 0) => vec![phone.parse(parser)?],
        (None, 1..=MAX_PHONES) => parse_phones(&phones, parser)?,
        (None, 0) => return Err(ValidationError::new("phones", "is missing; name one phone or more").into()),
        (None, _) => {
            let help = "send them as a file to /suppressions/import";
            return Err(ValidationError::new(
                "phones",
                format!("may have {MAX_PHONES} entries at most; {help}"),
            )
            .into());
        }
        (Some(_), _) => return Err(ValidationError::new("phone", "give phone or phones, not both").into()),
    };
    let AddSummary { added, existing } =
        state.services.suppressions.add(recipients, SuppressionReason::Api, note).await?;
    Ok(Json(SuppressionsAddedResponse {
        success: true,
        data: SuppressionCounts { added, already: existing },
    }))
}

fn parse_phones(
    phones: &[PhoneText<'_>],
    parser: RecipientParser,
) -> Result<Vec<Recipient>, ValidationError> {
    let phones = phones.iter().enumerate();
    phones.map(|(at, phone)| phone.parse_field(parser, format!("phones[{at}]"))).collect()
}
