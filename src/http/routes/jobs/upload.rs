//! `POST /messages/send-bulk-file`: a file of recipients and the message that each of them gets.
//!
//! The file is written to the disk and checked while it arrives: it is never in memory as a whole. When the response
//! is sent, its rows are counted and the job is durable.

use axum::Json;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::dto::Job;
use super::form::{FormReader, FormRequest, UploadedFile};
use super::job_id_from_digest;
use crate::bulk::{self, JobDraft, JobView, NewJob, Preview, PreviewRow, SenderSelection};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{SendOptions, instance_header};
use crate::http::phone_warnings::PhoneWarning;
use crate::http::{AppState, body};
use relevo_domain::{RecipientParser, ValidationError};

/// Number of rows in the response of a dry run.
const PREVIEW_ROWS: usize = 10;

/// A job was created.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobCreatedResponse {
    #[schema(example = "success")]
    status: &'static str,
    #[schema(example = "Job creado y en proceso. Procesando 1000 mensajes desde archivo 'clientes.csv'.")]
    message: String,
    job: Job,
    /// Number of rows with an invalid telephone. They are listed among the errors; the other rows are sent.
    invalid_rows: u32,
    /// The first of them.
    invalid_sample: Vec<InvalidRow>,
    /// Number of rows whose telephone does not fit the numbering plan of its country. They are sent.
    warned_rows: u32,
    /// The first of them.
    warning_sample: Vec<WarnedRow>,
}

/// A row with an invalid telephone.
#[derive(Debug, Serialize, ToSchema)]
struct InvalidRow {
    line: u64,
    reason: String,
}

/// A row whose telephone does not fit the numbering plan of its country.
#[derive(Debug, Serialize, ToSchema)]
struct WarnedRow {
    line: u64,
    warning: PhoneWarning,
}

/// The result of a dry run.
#[derive(Debug, Serialize, ToSchema)]
pub struct DryRunResponse {
    #[schema(example = "success")]
    status: &'static str,
    dry_run: bool,
    total_numbers: u32,
    invalid_rows: u32,
    invalid_sample: Vec<InvalidRow>,
    /// Number of rows whose telephone does not fit the numbering plan of its country. They would be sent.
    warned_rows: u32,
    /// The first of them.
    warning_sample: Vec<WarnedRow>,
    /// The first rows as they would be sent.
    preview: Vec<RenderedRow>,
    /// The instances that would send.
    instances: Vec<String>,
    /// Estimated duration at the rate limits of the instances, without other messages.
    estimated_seconds: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct RenderedRow {
    line: u32,
    phone: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The fields of the form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the form only")]
pub struct BulkFileForm {
    /// `.csv` or `.txt` in UTF-8: a recipient per row, the telephone first, columns separated by `|`, `;`, `,` or
    /// tabs, with or without a header.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// The text, with `@valor1`, `@valor2` … (or `@name` of a column) where values go; `---` where a row has none.
    #[schema(example = "Hola @valor1, tu pedido @valor2 ha sido procesado")]
    message: String,
    /// Number of connected instances that share the job; 5 without it.
    devices_limit: Option<u8>,
    /// The names of the instances that send, separated by commas. Default: connected instances. `X-Instance-Id` names
    /// one.
    instances: Option<String>,
    /// Earliest time to send: RFC 3339 or Unix seconds.
    send_at: Option<String>,
    /// Only between these times of day, such as `09:00` …
    window_from: Option<String>,
    /// … and `20:00`; both or none.
    window_to: Option<String>,
    /// The IANA time zone of these times, such as `America/Bogota`; UTC without it.
    window_timezone: Option<String>,
    /// The country of telephones without a country code, such as `CO` or `57`: they are completed.
    default_country: Option<String>,
    /// `true`: also send to recipients on the suppression list.
    include_suppressed: Option<bool>,
    /// `true`: send nothing; the response has the first messages and an estimate of the duration.
    dry_run: Option<bool>,
}

/// Starts a job for the recipients of a file. It continues after restarts; follow it at `/ws/job/{job_id}` or `GET
/// /jobs/{job_id}`. A repetition with the same `Idempotency-Key` starts no second job.
#[utoipa::path(post, path = "/messages/send-bulk-file", operation_id = "send_bulk_file", tag = "jobs",
    request_body(content = BulkFileForm, content_type = "multipart/form-data"),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters, chosen by the caller."),
        ("X-Instance-Id" = Option<String>, Header, description = "The one instance that sends."),
    ),
    responses(
        (status = 200, description = "The job is durable; with `dry_run`, the result of the dry run.", content(
            (JobCreatedResponse = "application/json"), (DryRunResponse = "application/json"))),
        (status = 400, description = "The file or a field is wrong, or no instance is connected.", body = ErrorBody),
        (status = 404, description = "An instance that is named does not exist.", body = ErrorBody),
        (status = 408, description = "The file did not arrive in time.", body = ErrorBody),
        (status = 413, description = "Too many recipients, or too large a file.", body = ErrorBody),
        (status = 429, description = "The limit of jobs is reached.", body = ErrorBody),
        (status = 503, description = "The node cannot accept jobs now.", body = ErrorBody),
    ))]
pub async fn send(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    submit(&state, request).await
}

/// The same under a shorter path.
#[utoipa::path(post, path = "/send-bulk-file", operation_id = "send_bulk_file_short", tag = "jobs",
    request_body(content = BulkFileForm, content_type = "multipart/form-data"),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters, chosen by the caller."),
        ("X-Instance-Id" = Option<String>, Header, description = "The one instance that sends."),
    ),
    responses(
        (status = 200, description = "See `/messages/send-bulk-file`.", body = JobCreatedResponse),
        (status = 400, description = "See `/messages/send-bulk-file`.", body = ErrorBody),
    ))]
pub async fn send_short(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    submit(&state, request).await
}

async fn submit(state: &AppState, request: Request) -> Result<Response, ApiError> {
    let limit = state.options.upload_limit;
    let request = body::check_announced_length(request, limit)?;
    let key = SendOptions::from_headers(request.headers())?.key_digest();
    let named = instance_header(request.headers());
    let form = Multipart::from_request(request, state).await;
    let form = form.map_err(|rejection| ValidationError::new("body", rejection.body_text()))?;
    let upload = state.services.bulk.upload(state.recipients())?;
    let read_timeout = state.options.read_timeout;
    let mut reader =
        FormReader { limit, read_timeout, received_bytes: 0, digest: key.map(Sha256::new_with_prefix) };
    let (mut fields, file) = reader.read(form, upload).await?;
    if fields.instances.is_none() {
        fields.instances = named;
    }
    let Some(UploadedFile { name, draft }) = file else {
        return Err(ValidationError::new(
            "file",
            "es requerido; envíe el archivo en el campo file del formulario",
        )
        .into());
    };
    let draft = match fields.default_country()? {
        Some(country) => draft.read_again(RecipientParser { default_country: Some(country) }).await?,
        None => draft,
    };
    let id = reader.digest.map_or_else(|| state.services.random.uuid(), job_id_from_digest);
    // A repetition is answered whatever has changed since; for example, `send_at` may be past.
    if let Ok(view) = state.services.bulk.get(id) {
        return Ok(created_response(view, RowFindings::of(&draft)));
    }
    let form_request = fields.into_job(id, name, state.services.clock.now())?;
    match form_request {
        FormRequest::DryRun { text, senders } => {
            check_message(state, &text, &senders, &draft).await?;
            dry_run(state, &text, &senders, draft).await
        }
        FormRequest::Job(text, job) => {
            check_message(state, &text, &job.senders, &draft).await?;
            create_job(state, *job, draft).await
        }
    }
}

/// Rejects a text that an instance cannot send with any values. A row whose values produce a message that WhatsApp
/// does not accept fails alone.
async fn check_message(
    state: &AppState,
    text: &str,
    senders: &SenderSelection,
    draft: &JobDraft,
) -> Result<(), ApiError> {
    let Some(minimal) = state.services.bulk.minimal_message(text, senders, draft).await? else {
        return Ok(());
    };
    for instance in &minimal.senders {
        let mut checker = state.services.instances.message_checker(instance)?;
        checker.check(&minimal.message).await.map_err(|error| match error.invalid() {
            Some(invalid) => ValidationError::new("message", invalid.reason.clone()).into(),
            None => ApiError::from(error),
        })?;
    }
    Ok(())
}

async fn create_job(state: &AppState, job: NewJob, draft: JobDraft) -> Result<Response, ApiError> {
    let id = job.id;
    let findings = RowFindings::of(&draft);
    let view = match state.services.bulk.create(job, draft).await {
        // A repeated request; its job exists.
        Err(bulk::Error::Exists(_)) => state.services.bulk.get(id)?,
        created => created?,
    };
    Ok(created_response(view, findings))
}

fn created_response(view: JobView, findings: RowFindings) -> Response {
    let (total, name) = (view.progress.total, view.file_name.clone().unwrap_or_default());
    let message = format!("Job creado y en proceso. Procesando {total} mensajes desde archivo '{name}'.");
    let RowFindings { invalid_rows, invalid_sample, warned_rows, warning_sample } = findings;
    let answer = JobCreatedResponse {
        status: "success",
        message,
        job: view.into(),
        invalid_rows,
        invalid_sample,
        warned_rows,
        warning_sample,
    };
    Json(answer).into_response()
}

async fn dry_run(
    state: &AppState,
    text: &str,
    senders: &SenderSelection,
    draft: JobDraft,
) -> Result<Response, ApiError> {
    let RowFindings { invalid_rows, invalid_sample, warned_rows, warning_sample } = RowFindings::of(&draft);
    let Preview { total, rows, senders, duration } =
        state.services.bulk.preview(text, senders, draft, PREVIEW_ROWS).await?;
    let answer = DryRunResponse {
        status: "success",
        dry_run: true,
        total_numbers: total,
        invalid_rows,
        invalid_sample,
        warned_rows,
        warning_sample,
        preview: rows.into_iter().map(RenderedRow::from).collect(),
        instances: senders.iter().map(ToString::to_string).collect(),
        estimated_seconds: duration.as_secs(),
    };
    Ok(Json(answer).into_response())
}

/// What the check of a file found: its bad rows, and the rows with a warning, each with the first of them.
struct RowFindings {
    invalid_rows: u32,
    invalid_sample: Vec<InvalidRow>,
    warned_rows: u32,
    warning_sample: Vec<WarnedRow>,
}

impl RowFindings {
    fn of(draft: &JobDraft) -> Self {
        let (invalid_rows, bad) = draft.bad();
        let (warned_rows, unusual) = draft.unusual();
        let invalid = bad.iter().map(|bad| InvalidRow { line: bad.line, reason: bad.reason.clone() });
        let warned = unusual
            .iter()
            .map(|row| WarnedRow { line: row.line, warning: PhoneWarning::from_mismatch(&row.mismatch) });
        Self {
            invalid_rows,
            invalid_sample: invalid.collect(),
            warned_rows,
            warning_sample: warned.collect(),
        }
    }
}

impl From<PreviewRow> for RenderedRow {
    fn from(row: PreviewRow) -> Self {
        let (message, error) = match row.message {
            Ok(message) => (Some(message), None),
            Err(error) => (None, Some(error)),
        };
        Self { line: row.line, phone: row.phone, message, error }
    }
}
