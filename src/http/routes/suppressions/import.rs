//! `POST /suppressions/import`.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::Multipart;
use axum::extract::{FromRequest, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures_util::StreamExt;

use super::dto::{InvalidLine, SuppressionImportResponse, SuppressionImportResult};
use crate::contacts::{SuppressionList, SuppressionReason};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::phone_list::{PhoneLine, PhoneListParser};
use crate::http::{AppState, body};
use relevo_domain::{Recipient, ValidationError};

/// So many people are entered at once while a file arrives.
const BATCH_SIZE: usize = 500;

/// So many wrong lines of a file are told.
const MAX_INVALID_LINES: usize = 100;

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
    _: Access<scope::Manage>,
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
