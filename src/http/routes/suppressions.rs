//! `/suppressions`: who must not be written to unasked.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::Multipart;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, QueryParams};
use crate::http::page::{self, PageResponse};
use crate::http::phone_list::{PhoneLine, PhoneListParser};
use crate::http::{AppState, body, json};
use crate::suppression::{AddSummary, SuppressionEntry, SuppressionList, SuppressionReason};
use relevo_domain::{ErrorKind, Recipient, ValidationError};

/// The most phones of one request that is no file.
const MAX_PHONES: usize = 10_000;

/// So many people are entered at once while a file arrives.
const BATCH_SIZE: usize = 500;

/// So many wrong lines of a file are told.
const MAX_INVALID_LINES: usize = 100;

/// Somebody on the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Suppression {
    #[schema(example = "573001234567")]
    phone: String,
    /// `api`, `file`, `opted_out`, `preference` or `keyword`.
    #[schema(example = "keyword")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Since when.
    created_at: String,
}

/// One entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionResponse {
    success: bool,
    data: Suppression,
}

/// Who is to be put on the list: one of `phone` and `phones`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewSuppressions {
    #[serde(default)]
    phone: Option<String>,
    /// Up to 10000.
    #[serde(default)]
    phones: Vec<String>,
    /// Why, in the caller's words; up to 512 bytes.
    #[serde(default)]
    note: Option<String>,
}

/// How many were put on the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionsAddedResponse {
    success: bool,
    data: SuppressionCounts,
}

#[derive(Debug, Serialize, ToSchema)]
struct SuppressionCounts {
    added: u64,
    /// They were on it before, and keep their entry.
    already: u64,
}

/// What a file did.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionImportResponse {
    success: bool,
    data: SuppressionImportResult,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct SuppressionImportResult {
    added: u64,
    /// They were on the list before, and keep their entry.
    already: u64,
    /// Lines that name nobody.
    invalid_total: u64,
    /// The first 100 of them.
    invalid: Vec<InvalidLine>,
}

#[derive(Debug, Serialize, ToSchema)]
struct InvalidLine {
    /// The first is 1.
    line: u64,
    reason: String,
}

/// Somebody was taken off the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionDeletedResponse {
    success: bool,
}

/// Which page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SuppressionQuery {
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

impl From<SuppressionEntry> for Suppression {
    fn from(entry: SuppressionEntry) -> Self {
        Self {
            phone: entry.recipient.to_string(),
            reason: entry.reason.as_str(),
            note: entry.note,
            created_at: entry.at.to_string(),
        }
    }
}

/// The `phone` of a path, in any spelling.
pub(in crate::http) struct RecipientPath(Recipient);

impl FromRequestParts<AppState> for RecipientPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let found = Path::<String>::from_request_parts(parts, state).await;
        let Path(phone) = found.map_err(|refused| ValidationError::new("phone", refused.body_text()))?;
        Ok(Self(phone.parse().map_err(|wrong: ValidationError| ValidationError::new("phone", wrong.reason))?))
    }
}

fn not_suppressed(who: &Recipient) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("{who} is not on the suppression list"))
}

/// Shows the list.
#[utoipa::path(get, path = "/suppressions", operation_id = "list_suppressions", tag = "suppressions",
    params(SuppressionQuery), responses(
        (status = 200, description = "A page of it.", body = PageResponse<Suppression>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list(
    State(state): State<AppState>,
    QueryParams(wanted): QueryParams<SuppressionQuery>,
) -> Result<Json<PageResponse<Suppression>>, ApiError> {
    let limit = page::validate_limit(wanted.limit)?;
    let wrong = |_: ValidationError| ValidationError::new("after", "must be the `next` of the page before");
    let after = wanted.after.as_deref().map(str::parse).transpose().map_err(wrong)?;
    let found = state.services.suppressions.list(after, limit).await?;
    Ok(Json(PageResponse::new(found, limit, |entry: &SuppressionEntry| Some(entry.recipient.to_string()))))
}

/// Puts people on the list. Who is on it already keeps the first entry.
#[utoipa::path(post, path = "/suppressions", operation_id = "add_suppressions", tag = "suppressions",
    request_body = NewSuppressions, responses(
        (status = 200, description = "They are on it, durably.", body = SuppressionsAddedResponse),
        (status = 400, description = "A phone is wrong; nobody was put on the list.", body = ErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ErrorBody),
    ))]
pub async fn add(
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<Json<SuppressionsAddedResponse>, ApiError> {
    let NewSuppressions { phone, phones, note } = json::parse(&body)?;
    let people = match (phone, phones.len()) {
        (Some(phone), 0) => vec![phone.parse()?],
        (None, 1..=MAX_PHONES) => parse_phones(&phones)?,
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
        state.services.suppressions.add(people, SuppressionReason::Api, note).await?;
    Ok(Json(SuppressionsAddedResponse {
        success: true,
        data: SuppressionCounts { added, already: existing },
    }))
}

fn parse_phones(phones: &[String]) -> Result<Vec<Recipient>, ValidationError> {
    let parse = |(at, phone): (usize, &String)| {
        let wrong = |wrong: ValidationError| ValidationError::new(format!("phones[{at}]"), wrong.reason);
        phone.parse().map_err(wrong)
    };
    phones.iter().enumerate().map(parse).collect()
}

/// Shows somebody's entry.
#[utoipa::path(get, path = "/suppressions/{phone}", operation_id = "get_suppression", tag = "suppressions",
    responses(
        (status = 200, description = "They are on the list.", body = SuppressionResponse),
        (status = 400, description = "This is no phone.", body = ErrorBody),
        (status = 404, description = "They are not.", body = ErrorBody),
    ))]
pub async fn get(
    State(state): State<AppState>,
    RecipientPath(who): RecipientPath,
) -> Result<Json<SuppressionResponse>, ApiError> {
    let found = state.services.suppressions.get(&who)?.ok_or_else(|| not_suppressed(&who))?;
    Ok(Json(SuppressionResponse { success: true, data: found.into() }))
}

/// Takes somebody off the list.
#[utoipa::path(delete, path = "/suppressions/{phone}", operation_id = "delete_suppression", tag = "suppressions",
    responses(
        (status = 200, description = "They are off it, durably.", body = SuppressionDeletedResponse),
        (status = 400, description = "This is no phone.", body = ErrorBody),
        (status = 404, description = "They were not on it.", body = ErrorBody),
    ))]
pub async fn delete(
    State(state): State<AppState>,
    RecipientPath(who): RecipientPath,
) -> Result<Json<SuppressionDeletedResponse>, ApiError> {
    if state.services.suppressions.release(who.clone()).await? {
        Ok(Json(SuppressionDeletedResponse { success: true }))
    } else {
        Err(not_suppressed(&who))
    }
}

/// Puts the people of a file on the list: a phone in the first column of each line, as the body itself or as a file
/// in a form. It is read while it arrives; when it breaks off, what arrived stays on the list, and sending it again
/// does no harm.
#[utoipa::path(post, path = "/suppressions/import", operation_id = "import_suppressions", tag = "suppressions",
    request_body(content = String, content_type = "text/csv"), responses(
        (status = 200, description = "They are on it, durably.", body = SuppressionImportResponse),
        (status = 400, description = "There is no file, or it broke off.", body = ErrorBody),
        (status = 413, description = "The file is too large.", body = ErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ErrorBody),
    ))]
pub async fn import(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<SuppressionImportResponse>, ApiError> {
    let limit = state.options.media_body_limit;
    if content_length(request.headers()).is_some_and(|length| length > limit) {
        body::discard(request, limit);
        return Err(ApiError::payload_too_large(limit));
    }
    let import = SuppressionImport::new(state.services.suppressions.clone(), limit);
    let patience = state.options.read_timeout;
    let data = if is_form(request.headers()) {
        let form = Multipart::from_request(request, &state).await;
        import
            .import_form(form.map_err(|refused| ValidationError::new("body", refused.body_text()))?, patience)
            .await?
    } else {
        import.import_body(request.into_body(), patience).await?
    };
    Ok(Json(SuppressionImportResponse { success: true, data }))
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_form(headers: &HeaderMap) -> bool {
    let claimed = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    claimed.trim_start().to_ascii_lowercase().starts_with("multipart/form-data")
}

/// A file on its way onto the list.
struct SuppressionImport {
    list: SuppressionList,
    limit: usize,
    received_bytes: usize,
    lines: PhoneListParser,
    pending: Vec<Recipient>,
    result: SuppressionImportResult,
}

impl SuppressionImport {
    fn new(list: SuppressionList, limit: usize) -> Self {
        let (lines, pending, result) =
            (PhoneListParser::default(), Vec::new(), SuppressionImportResult::default());
        Self { list, limit, received_bytes: 0, lines, pending, result }
    }

    async fn import_body(
        mut self,
        body: Body,
        patience: std::time::Duration,
    ) -> Result<SuppressionImportResult, ApiError> {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = tokio::time::timeout(patience, chunks.next())
            .await
            .map_err(|_| ApiError::request_timeout(patience))?
        {
            self.push_chunk(&chunk.map_err(|_| incomplete_body())?).await?;
        }
        self.finish().await
    }

    async fn import_form(
        mut self,
        mut form: Multipart,
        patience: std::time::Duration,
    ) -> Result<SuppressionImportResult, ApiError> {
        let slow = |_| ApiError::request_timeout(patience);
        while let Some(mut field) = tokio::time::timeout(patience, form.next_field())
            .await
            .map_err(slow)?
            .map_err(|_| incomplete_body())?
        {
            if field.file_name().is_none() && field.name() != Some("file") {
                continue;
            }
            while let Some(chunk) = tokio::time::timeout(patience, field.chunk())
                .await
                .map_err(slow)?
                .map_err(|_| incomplete_body())?
            {
                self.push_chunk(&chunk).await?;
            }
            return self.finish().await;
        }
        Err(ValidationError::new("file", "is missing; send the list as a file of the form").into())
    }

    async fn push_chunk(&mut self, chunk: &Bytes) -> Result<(), ApiError> {
        self.received_bytes += chunk.len();
        if self.received_bytes > self.limit {
            return Err(ApiError::payload_too_large(self.limit));
        }
        let (people, done) = (&mut self.pending, &mut self.result);
        self.lines.push(chunk, &mut |line| record_line(line, people, done));
        if self.pending.len() >= BATCH_SIZE {
            self.flush().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<SuppressionImportResult, ApiError> {
        let (people, done) = (&mut self.pending, &mut self.result);
        self.lines.finish(&mut |line| record_line(line, people, done));
        self.flush().await?;
        Ok(self.result)
    }

    async fn flush(&mut self) -> Result<(), ApiError> {
        let entered = self.list.add(std::mem::take(&mut self.pending), SuppressionReason::File, None).await?;
        self.result.added += entered.added;
        self.result.already += entered.existing;
        Ok(())
    }
}

fn record_line(line: PhoneLine, people: &mut Vec<Recipient>, done: &mut SuppressionImportResult) {
    match line {
        PhoneLine::Phone(who) => people.push(who),
        PhoneLine::Invalid { line, reason } => {
            done.invalid_total += 1;
            if done.invalid.len() < MAX_INVALID_LINES {
                done.invalid.push(InvalidLine { line, reason });
            }
        }
    }
}

fn incomplete_body() -> ApiError {
    ValidationError::new("body", "ended before it was complete").into()
}
