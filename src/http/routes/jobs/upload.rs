//! `POST /messages/send-bulk-file`: a file of recipients and the message that each of them gets.
//!
//! The file goes to the disk while it arrives and is checked on the way: it is never in memory as a whole, and when
//! the answer is given its rows are counted and the job is durable.

use std::time::Duration;

use axum::Json;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::bulk::{
    self, Draft, Kind, NewJob, OnSuppressed, Plan, Preview, PreviewRow, Senders, Upload, Window,
};
use crate::domain::{InstanceId, Invalid, Timestamp};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::Sending;
use crate::http::moment::Moment;
use crate::http::routes::sending::ahead;
use crate::http::{AppState, body};

use super::Job;

/// Instances that share a job when nobody says how many (bulk-file-jobs.md).
const DEVICES: u8 = 5;

/// The longest text of a field, in bytes. WhatsApp takes 4096 characters; a template may be longer than what becomes
/// of it.
const LONGEST_TEXT: usize = 64 << 10;

/// Rows that a dry run shows.
const SHOWN: usize = 10;

/// A job was created.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedAnswer {
    #[schema(example = "success")]
    status: &'static str,
    #[schema(example = "Job creado y en proceso. Procesando 1000 mensajes desde archivo 'clientes.csv'.")]
    message: String,
    job: Job,
    /// Rows whose telephone is bad: they are listed among the errors and do not stop the others.
    invalid_rows: u32,
    /// The first of them.
    invalid_sample: Vec<BadLine>,
}

/// A row that nobody can be written to at.
#[derive(Debug, Serialize, ToSchema)]
struct BadLine {
    line: u64,
    reason: String,
}

/// What a job would do.
#[derive(Debug, Serialize, ToSchema)]
pub struct DryRunAnswer {
    #[schema(example = "success")]
    status: &'static str,
    dry_run: bool,
    total_numbers: u32,
    invalid_rows: u32,
    invalid_sample: Vec<BadLine>,
    /// The first rows as they would be sent.
    preview: Vec<Rendered>,
    /// The instances that would send.
    instances: Vec<String>,
    /// How long it takes at their rates, when they send nothing else.
    estimated_seconds: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct Rendered {
    line: u32,
    phone: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What the form holds.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it documents the form; nobody makes one")]
pub struct BulkForm {
    /// `.csv` or `.txt` in UTF-8: a recipient per row, the telephone first, columns separated by `|`, `;`, `,` or
    /// tabs, with or without a header.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// The text, with `@valor1`, `@valor2` … (or `@name` of a column) where values go; `---` where a row has none.
    #[schema(example = "Hola @valor1, tu pedido @valor2 ha sido procesado")]
    message: String,
    /// Connected instances that share the job; 5 without it.
    devices_limit: Option<u8>,
    /// The instances that send, separated by commas, instead of any that are connected. `X-Instance-Id` names one.
    instances: Option<String>,
    /// Not before this moment: RFC 3339 or Unix seconds.
    send_at: Option<String>,
    /// Only between these times of day, such as `09:00` …
    window_from: Option<String>,
    /// … and `20:00`; both or none.
    window_to: Option<String>,
    /// The IANA time zone of these times, such as `America/Bogota`; UTC without it.
    window_timezone: Option<String>,
    /// `true`: recipients on the suppression list get it, too.
    include_suppressed: Option<bool>,
    /// `true`: nothing is sent; the answer shows the first messages and estimates the duration.
    dry_run: Option<bool>,
}

/// Starts a job for the recipients of a file. It goes on by itself over restarts; follow it at `/ws/job/{job_id}` or
/// `GET /jobs/{job_id}`. With an `Idempotency-Key`, the same request starts nothing twice.
#[utoipa::path(post, path = "/messages/send-bulk-file", operation_id = "send_bulk_file", tag = "jobs",
    request_body(content = BulkForm, content_type = "multipart/form-data"),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters, chosen by the caller."),
        ("X-Instance-Id" = Option<String>, Header, description = "The one instance that sends."),
    ),
    responses(
        (status = 200, description = "The job is durable, or with `dry_run` what it would do.", content(
            (CreatedAnswer = "application/json"), (DryRunAnswer = "application/json"))),
        (status = 400, description = "The file or a field is wrong, or no instance is connected.", body = ErrorBody),
        (status = 404, description = "An instance that is named does not exist.", body = ErrorBody),
        (status = 408, description = "The file did not arrive in time.", body = ErrorBody),
        (status = 413, description = "Too many recipients, or too large a file.", body = ErrorBody),
        (status = 429, description = "As many jobs as there may be wait or run.", body = ErrorBody),
        (status = 503, description = "The node cannot accept jobs now.", body = ErrorBody),
    ))]
pub async fn send(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    submit(&state, request).await
}

/// The same by its shorter name.
#[utoipa::path(post, path = "/send-bulk-file", operation_id = "send_bulk_file_short", tag = "jobs",
    request_body(content = BulkForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "See `/messages/send-bulk-file`.", body = CreatedAnswer),
        (status = 400, description = "See there.", body = ErrorBody),
    ))]
pub async fn send_short(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    submit(&state, request).await
}

async fn submit(state: &AppState, request: Request) -> Result<Response, ApiError> {
    let limit = state.options.upload_limit;
    if length(request.headers()).is_some_and(|length| length > limit) {
        body::discard(request, limit);
        return Err(ApiError::too_large(limit));
    }
    let key = Sending::of(request.headers())?.key();
    let named = request
        .headers()
        .get("x-instance-id")
        .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    let form = Multipart::from_request(request, state).await;
    let form = form.map_err(|refused| Invalid::new("body", refused.body_text()))?;
    let upload = state.services.bulk.upload()?;
    let patience = state.options.read_timeout;
    let mut arriving = Arriving { limit, patience, arrived: 0, digest: key.map(Sha256::new_with_prefix) };
    let (mut fields, file) = arriving.read(form, upload).await?;
    if fields.instances.is_none() {
        fields.instances = named;
    }
    let Some(File { name, draft }) = file else {
        return Err(
            Invalid::new("file", "es requerido; envíe el archivo en el campo file del formulario").into()
        );
    };
    let id = arriving.digest.map_or_else(Uuid::new_v4, id_of);
    let job = fields.into_job(id, name, state.services.clock.now())?;
    match job {
        Wanted::DryRun { text, senders } => dry_run(state, &text, &senders, draft).await,
        Wanted::Job(job) => create(state, *job, draft).await,
    }
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The job of a request with an idempotency key: the same request is the same job (a version 8 UUID, RFC 9562 §5.8).
fn id_of(digest: Sha256) -> Uuid {
    let digest: [u8; 32] = digest.finalize().into();
    uuid::Builder::from_custom_bytes(digest.first_chunk().copied().unwrap_or_default()).into_uuid()
}

async fn create(state: &AppState, job: NewJob, draft: Draft) -> Result<Response, ApiError> {
    let (id, name) = (job.id, job.file_name.clone().unwrap_or_default());
    let (invalid_rows, invalid_sample) = bad_lines(&draft);
    let view = match state.services.bulk.create(job, draft).await {
        // The request came before, and its job stands.
        Err(bulk::Error::Exists(_)) => state.services.bulk.get(id)?,
        created => created?,
    };
    let total = view.progress.total;
    let message = format!("Job creado y en proceso. Procesando {total} mensajes desde archivo '{name}'.");
    let answer = CreatedAnswer { status: "success", message, job: view.into(), invalid_rows, invalid_sample };
    Ok(Json(answer).into_response())
}

async fn dry_run(
    state: &AppState,
    text: &str,
    senders: &Senders,
    draft: Draft,
) -> Result<Response, ApiError> {
    let (invalid_rows, invalid_sample) = bad_lines(&draft);
    let Preview { total, rows, senders, duration } =
        state.services.bulk.preview(text, senders, draft, SHOWN).await?;
    let answer = DryRunAnswer {
        status: "success",
        dry_run: true,
        total_numbers: total,
        invalid_rows,
        invalid_sample,
        preview: rows.into_iter().map(Rendered::from).collect(),
        instances: senders.iter().map(ToString::to_string).collect(),
        estimated_seconds: duration.as_secs(),
    };
    Ok(Json(answer).into_response())
}

fn bad_lines(draft: &Draft) -> (u32, Vec<BadLine>) {
    let (count, sample) = draft.bad();
    let shown = sample.iter().map(|bad| BadLine { line: bad.line, reason: bad.reason.clone() });
    (count, shown.collect())
}

impl From<PreviewRow> for Rendered {
    fn from(row: PreviewRow) -> Self {
        let (message, error) = match row.message {
            Ok(message) => (Some(message), None),
            Err(error) => (None, Some(error)),
        };
        Self { line: row.line, phone: row.phone, message, error }
    }
}

/// The file of a form, on the disk.
struct File {
    name: String,
    draft: Draft,
}

/// The other fields of a form; what is empty counts as left out.
#[derive(Default)]
struct Fields {
    message: Option<String>,
    devices_limit: Option<String>,
    instances: Option<String>,
    send_at: Option<String>,
    window_from: Option<String>,
    window_to: Option<String>,
    window_timezone: Option<String>,
    include_suppressed: Option<String>,
    dry_run: Option<String>,
}

/// What the caller wants done.
enum Wanted {
    DryRun { text: String, senders: Senders },
    Job(Box<NewJob>),
}

impl Fields {
    /// The place of a field, if there is such a field.
    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "message" => &mut self.message,
            "devices_limit" => &mut self.devices_limit,
            "instances" | "instance_id" => &mut self.instances,
            "send_at" => &mut self.send_at,
            "window_from" => &mut self.window_from,
            "window_to" => &mut self.window_to,
            "window_timezone" => &mut self.window_timezone,
            "include_suppressed" => &mut self.include_suppressed,
            "dry_run" => &mut self.dry_run,
            _ => return None,
        })
    }

    fn into_job(self, id: Uuid, file_name: String, now: Timestamp) -> Result<Wanted, Invalid> {
        let text = self.message.as_deref().unwrap_or_default();
        if text.trim().is_empty() {
            return Err(Invalid::new(
                "message",
                "es requerido; escriba el texto, con @valor1, @valor2… donde van las columnas",
            ));
        }
        let (text, senders) = (text.to_owned(), self.senders()?);
        let send_at = self.send_at.as_deref().map(|text| moment(text, now)).transpose()?;
        let window = self.window()?;
        if flag("dry_run", self.dry_run.as_deref())? {
            return Ok(Wanted::DryRun { text, senders });
        }
        let suppressed = match flag("include_suppressed", self.include_suppressed.as_deref())? {
            true => OnSuppressed::Send,
            false => OnSuppressed::Skip,
        };
        let (kind, plan, file_name) = (Kind::File, Plan::Text(text), Some(file_name));
        Ok(Wanted::Job(Box::new(NewJob { id, kind, file_name, plan, senders, send_at, window, suppressed })))
    }

    fn senders(&self) -> Result<Senders, Invalid> {
        if let Some(names) = &self.instances {
            let named = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            let parse = |name: &str| {
                name.parse::<InstanceId>()
                    .map_err(|wrong| Invalid::new("instances", format!("{name:?} {}", wrong.reason)))
            };
            let mut named = named.map(parse).collect::<Result<Vec<_>, _>>()?;
            named.dedup();
            return Ok(Senders::Named(named));
        }
        let limit = match self.devices_limit.as_deref() {
            None => DEVICES,
            Some(text) => match text.trim().parse() {
                Ok(limit @ 1..) => limit,
                _ => return Err(Invalid::new("devices_limit", "must be a number from 1 to 255")),
            },
        };
        Ok(Senders::Any { limit })
    }

    fn window(&self) -> Result<Option<Window>, Invalid> {
        match (&self.window_from, &self.window_to) {
            (Some(from), Some(to)) => {
                Window::new(from, to, self.window_timezone.as_deref().unwrap_or("UTC")).map(Some)
            }
            (None, None) => Ok(None),
            (Some(_), None) => Err(Invalid::new("window_to", "is missing beside window_from")),
            (None, Some(_)) => Err(Invalid::new("window_from", "is missing beside window_to")),
        }
    }
}

fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Invalid> {
    let moment: Moment = serde_json::from_value(serde_json::Value::from(text))
        .map_err(|cause| Invalid::new("send_at", cause.to_string()))?;
    ahead(moment, now)
}

fn flag(field: &str, text: Option<&str>) -> Result<bool, Invalid> {
    match text.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        None | Some("false" | "0" | "no") => Ok(false),
        Some("true" | "1" | "yes" | "on" | "sí" | "si") => Ok(true),
        Some(_) => Err(Invalid::new(field, "must be true or false")),
    }
}

/// A form on its way in.
struct Arriving {
    limit: usize,
    /// How long a piece may take.
    patience: Duration,
    arrived: usize,
    /// Of everything that arrives, where a repetition must be recognised.
    digest: Option<Sha256>,
}

impl Arriving {
    async fn read(
        &mut self,
        mut form: Multipart,
        upload: Upload,
    ) -> Result<(Fields, Option<File>), ApiError> {
        let (mut fields, mut file, mut upload) = (Fields::default(), None, Some(upload));
        let (patience, slow) = (self.patience, self.patience);
        while let Some(mut field) = tokio::time::timeout(patience, form.next_field())
            .await
            .map_err(|_| ApiError::too_slow(slow))?
            .map_err(|_| broken())?
        {
            let name = field.name().unwrap_or_default().to_owned();
            self.note(name.as_bytes());
            if name == "file" {
                let Some(upload) = upload.take() else {
                    return Err(Invalid::new("file", "is given twice; send one file a job").into());
                };
                file = Some(self.file(&mut field, upload).await?);
            } else if let Some(place) = fields.place(&name) {
                let text = self.text(&mut field, &name).await?;
                *place = Some(text).filter(|text| !text.trim().is_empty());
            } else {
                // Clients add fields of their own; they are read off.
                while self.piece(&mut field).await?.is_some() {}
            }
        }
        Ok((fields, file))
    }

    async fn file(&mut self, field: &mut Field<'_>, mut upload: Upload) -> Result<File, ApiError> {
        let name = field.file_name().unwrap_or("archivo.csv").to_owned();
        while let Some(piece) = self.piece(field).await? {
            upload.write(piece).await?;
        }
        Ok(File { name, draft: upload.finish().await? })
    }

    async fn text(&mut self, field: &mut Field<'_>, name: &str) -> Result<String, ApiError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(field).await? {
            if bytes.len() + piece.len() > LONGEST_TEXT {
                return Err(
                    Invalid::new(name, format!("must not be longer than {LONGEST_TEXT} bytes")).into()
                );
            }
            bytes.extend_from_slice(&piece);
        }
        String::from_utf8(bytes).map_err(|_| Invalid::new(name, "is not UTF-8").into())
    }

    async fn piece(&mut self, field: &mut Field<'_>) -> Result<Option<bytes::Bytes>, ApiError> {
        let piece = tokio::time::timeout(self.patience, field.chunk()).await;
        let piece = piece.map_err(|_| ApiError::too_slow(self.patience))?.map_err(|_| broken())?;
        if let Some(piece) = &piece {
            self.arrived += piece.len();
            if self.arrived > self.limit {
                return Err(ApiError::too_large(self.limit));
            }
            self.note(piece);
        }
        Ok(piece)
    }

    fn note(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }
}

fn broken() -> ApiError {
    Invalid::new("body", "the form broke off, or is no multipart/form-data").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(given: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, text) in given {
            *fields.place(name).unwrap() = Some((*text).to_owned());
        }
        fields
    }

    fn wrong(given: &[(&str, &str)]) -> String {
        let mut all = vec![("message", "hola")];
        all.extend(given);
        match fields(&all).into_job(Uuid::nil(), String::new(), Timestamp(1_768_000_000_000)) {
            Err(invalid) => invalid.field,
            Ok(_) => String::new(),
        }
    }

    #[test]
    fn every_field_is_read_or_named() {
        for (given, field) in [
            (vec![("devices_limit", "0")], "devices_limit"),
            (vec![("devices_limit", "256")], "devices_limit"),
            (vec![("instances", "a b")], "instances"),
            (vec![("send_at", "mañana")], "send_at"),
            (vec![("send_at", "2020-01-01T00:00:00Z")], "send_at"),
            (vec![("window_from", "09:00")], "window_to"),
            (vec![("window_to", "09:00")], "window_from"),
            (vec![("window_from", "9"), ("window_to", "20:00")], "window_from"),
            (
                vec![("window_from", "09:00"), ("window_to", "20:00"), ("window_timezone", "Lima")],
                "window_timezone",
            ),
            (vec![("dry_run", "quizás")], "dry_run"),
            (vec![("message", " ")], "message"),
            (vec![("devices_limit", " 3 "), ("include_suppressed", "1")], ""),
        ] {
            assert_eq!(wrong(&given), field, "{given:?}");
        }
    }

    #[test]
    fn instances_may_be_named_with_commas() {
        let Ok(Senders::Named(named)) = fields(&[("instances", "uno, dos,")]).senders() else {
            panic!("not named")
        };
        assert_eq!(named.iter().map(ToString::to_string).collect::<Vec<_>>(), ["uno", "dos"]);
        assert_eq!(fields(&[]).senders(), Ok(Senders::Any { limit: 5 }));
    }
}
