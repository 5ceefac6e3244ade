//! `POST /suppressions/import`.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::Multipart;
use axum::extract::{FromRequest, Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use futures_util::StreamExt;

use super::dto::{InvalidLine, SuppressionImportResponse, SuppressionImportResult};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::phone_list::{PhoneLine, PhoneListParser};
use crate::http::{AppState, body};
use crate::suppression::{SuppressionList, SuppressionReason};
use relevo_domain::{Recipient, ValidationError};

/// Number of phones that an import adds at once.
const BATCH_SIZE: usize = 500;

/// Maximum number of invalid lines in the response of an import.
const MAX_INVALID_LINES: usize = 100;

/// Adds the phones of a file to the suppression list: a phone in the first column of each line, as the body itself or
/// as a file in a form. The file is parsed while it arrives. If the upload breaks off, the phones received so far
/// stay on the list, and the file can be sent again.
#[utoipa::path(post, path = "/suppressions/import", operation_id = "import_suppressions", tag = "suppressions",
    request_body(content = String, content_type = "text/csv"), responses(
        (status = 200, description = "They are added, durably.", body = SuppressionImportResponse),
        (status = 400, description = "The file is missing or incomplete.", body = ErrorBody),
        (status = 413, description = "The file is too large.", body = ErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ErrorBody),
    ))]
pub async fn import(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<SuppressionImportResponse>, ApiError> {
    let limit = state.options.media_body_limit;
    let request = body::check_announced_length(request, limit)?;
    let parser = PhoneListParser::new(state.recipients());
    let import = SuppressionImport::new(state.services.suppressions.clone(), parser, limit);
    let timeout = state.options.read_timeout;
    let data = if is_form(request.headers()) {
        let form = Multipart::from_request(request, &state).await;
        import
            .import_form(
                form.map_err(|rejection| ValidationError::new("body", rejection.body_text()))?,
                timeout,
            )
            .await?
    } else {
        import.import_body(request.into_body(), timeout).await?
    };
    Ok(Json(SuppressionImportResponse { success: true, data }))
}

fn is_form(headers: &HeaderMap) -> bool {
    let claimed = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    claimed.trim_start().to_ascii_lowercase().starts_with("multipart/form-data")
}

/// An import in progress.
struct SuppressionImport {
    list: SuppressionList,
    limit: usize,
    received_bytes: usize,
    parser: PhoneListParser,
    pending: Vec<Recipient>,
    result: SuppressionImportResult,
}

impl SuppressionImport {
    fn new(list: SuppressionList, parser: PhoneListParser, limit: usize) -> Self {
        let (pending, result) = (Vec::new(), SuppressionImportResult::default());
        Self { list, limit, received_bytes: 0, parser, pending, result }
    }

    async fn import_body(
        mut self,
        body: Body,
        timeout: std::time::Duration,
    ) -> Result<SuppressionImportResult, ApiError> {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = tokio::time::timeout(timeout, chunks.next())
            .await
            .map_err(|_| ApiError::request_timeout(timeout))?
        {
            self.push_chunk(&chunk.map_err(|_| incomplete_body())?).await?;
        }
        self.finish().await
    }

    async fn import_form(
        mut self,
        mut form: Multipart,
        timeout: std::time::Duration,
    ) -> Result<SuppressionImportResult, ApiError> {
        let slow = |_| ApiError::request_timeout(timeout);
        while let Some(mut field) = tokio::time::timeout(timeout, form.next_field())
            .await
            .map_err(slow)?
            .map_err(|_| incomplete_body())?
        {
            if field.file_name().is_none() && field.name() != Some("file") {
                continue;
            }
            while let Some(chunk) = tokio::time::timeout(timeout, field.chunk())
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
        let (recipients, result) = (&mut self.pending, &mut self.result);
        self.parser.push(chunk, &mut |line| record_line(line, recipients, result));
        if self.pending.len() >= BATCH_SIZE {
            self.flush().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<SuppressionImportResult, ApiError> {
        let (recipients, result) = (&mut self.pending, &mut self.result);
        self.parser.finish(&mut |line| record_line(line, recipients, result));
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

fn record_line(line: PhoneLine, recipients: &mut Vec<Recipient>, result: &mut SuppressionImportResult) {
    match line {
        PhoneLine::Phone(recipient) => recipients.push(recipient),
        PhoneLine::Invalid { line, reason } => {
            result.invalid_total += 1;
            if result.invalid.len() < MAX_INVALID_LINES {
                result.invalid.push(InvalidLine { line, reason });
            }
        }
    }
}

fn incomplete_body() -> ApiError {
    ValidationError::new("body", "ended before it was complete").into()
}
