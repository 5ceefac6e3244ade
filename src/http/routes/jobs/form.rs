//! The form of `POST /messages/send-bulk-file`, on its way in: the file to the disk, the other fields into a job.

use std::time::Duration;

use axum::extract::multipart::{Field, Multipart};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bulk::{FileUpload, JobDraft, JobKind, NewJob, OnSuppressed, Plan, SenderSelection, SendingHours};
use crate::http::error::ApiError;
use crate::http::routes::messages::submit::validate_send_at;
use crate::http::timestamp::RequestTimestamp;
use relevo_domain::{Country, InstanceId, Timestamp, ValidationError};

/// Default number of instances that share a job (bulk-file-jobs.md).
const DEFAULT_DEVICES: u8 = 5;

/// Maximum length of a text field, in bytes. WhatsApp accepts 4096 characters; a template may be longer than its
/// rendered messages.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// The uploaded file, on the disk.
pub(super) struct UploadedFile {
    pub name: String,
    pub draft: JobDraft,
}

/// The other fields of a form; an empty field counts as omitted.
#[derive(Default)]
pub(super) struct FormFields {
    message: Option<String>,
    devices_limit: Option<String>,
    pub instances: Option<String>,
    send_at: Option<String>,
    window_from: Option<String>,
    window_to: Option<String>,
    window_timezone: Option<String>,
    default_country: Option<String>,
    include_suppressed: Option<String>,
    dry_run: Option<String>,
}

/// The request of a form.
pub(super) enum FormRequest {
    DryRun {
        text: String,
        senders: SenderSelection,
    },
    /// The job with its text.
    Job(String, Box<NewJob>),
}

impl FormFields {
    /// The field with this name, if it exists.
    fn field_mut(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "message" => &mut self.message,
            "devices_limit" => &mut self.devices_limit,
            "instances" | "instance_id" => &mut self.instances,
            "send_at" => &mut self.send_at,
            "window_from" => &mut self.window_from,
            "window_to" => &mut self.window_to,
            "window_timezone" => &mut self.window_timezone,
            "default_country" => &mut self.default_country,
            "include_suppressed" => &mut self.include_suppressed,
            "dry_run" => &mut self.dry_run,
            _ => return None,
        })
    }

    /// The request that the fields describe.
    ///
    /// # Errors
    ///
    /// A field is missing or invalid.
    pub fn into_job(
        self,
        id: Uuid,
        file_name: String,
        now: Timestamp,
    ) -> Result<FormRequest, ValidationError> {
        let text = self.message.as_deref().unwrap_or_default();
        if text.trim().is_empty() {
            return Err(ValidationError::new(
                "message",
                "es requerido; escriba el texto, con @valor1, @valor2… donde van las columnas",
            ));
        }
        let (text, senders) = (text.to_owned(), self.senders()?);
        let send_at = self.send_at.as_deref().map(|text| parse_send_at(text, now)).transpose()?;
        let window = self.window()?;
        if parse_flag("dry_run", self.dry_run.as_deref())? {
            return Ok(FormRequest::DryRun { text, senders });
        }
        let suppressed = match parse_flag("include_suppressed", self.include_suppressed.as_deref())? {
            true => OnSuppressed::Send,
            false => OnSuppressed::Skip,
        };
        let (kind, plan, file_name) = (JobKind::File, Plan::Text(text.clone()), Some(file_name));
        let job = NewJob { id, kind, file_name, plan, senders, send_at, window, suppressed };
        Ok(FormRequest::Job(text, Box::new(job)))
    }

    /// The country of numbers without a country code, if the form names one.
    ///
    /// # Errors
    ///
    /// It is no country.
    pub fn default_country(&self) -> Result<Option<Country>, ValidationError> {
        self.default_country.as_deref().map(str::parse).transpose()
    }

    fn senders(&self) -> Result<SenderSelection, ValidationError> {
        if let Some(names) = &self.instances {
            let named = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            let parse = |name: &str| {
                name.parse::<InstanceId>()
                    .map_err(|wrong| ValidationError::new("instances", format!("{name:?} {}", wrong.reason)))
            };
            let mut named = named.map(parse).collect::<Result<Vec<_>, _>>()?;
            named.dedup();
            return Ok(SenderSelection::Named(named));
        }
        let limit = match self.devices_limit.as_deref() {
            None => DEFAULT_DEVICES,
            Some(text) => match text.trim().parse() {
                Ok(limit @ 1..) => limit,
                _ => return Err(ValidationError::new("devices_limit", "must be a number from 1 to 255")),
            },
        };
        Ok(SenderSelection::Any { limit })
    }

    fn window(&self) -> Result<Option<SendingHours>, ValidationError> {
        match (&self.window_from, &self.window_to) {
            (Some(from), Some(to)) => {
                SendingHours::new(from, to, self.window_timezone.as_deref().unwrap_or("UTC")).map(Some)
            }
            (None, None) => Ok(None),
            (Some(_), None) => Err(ValidationError::new("window_to", "is missing beside window_from")),
            (None, Some(_)) => Err(ValidationError::new("window_from", "is missing beside window_to")),
        }
    }
}

fn parse_send_at(text: &str, now: Timestamp) -> Result<Timestamp, ValidationError> {
    let moment: RequestTimestamp = serde_json::from_value(serde_json::Value::from(text))
        .map_err(|cause| ValidationError::new("send_at", cause.to_string()))?;
    validate_send_at(moment, now)
}

fn parse_flag(field: &str, text: Option<&str>) -> Result<bool, ValidationError> {
    match text.map(|text| text.trim().to_ascii_lowercase()).as_deref() {
        None | Some("false" | "0" | "no") => Ok(false),
        Some("true" | "1" | "yes" | "on" | "sí" | "si") => Ok(true),
        Some(_) => Err(ValidationError::new(field, "must be true or false")),
    }
}

/// The incremental reader of a form.
pub(super) struct FormReader {
    /// Maximum size of the form, in bytes.
    pub limit: usize,
    /// Timeout of one chunk.
    pub read_timeout: Duration,
    pub received_bytes: usize,
    /// The digest of all parts, with an idempotency key.
    pub digest: Option<Sha256>,
}

impl FormReader {
    /// Reads the form and writes its file to `upload`.
    ///
    /// # Errors
    ///
    /// The form is incomplete, too large or too slow, a field is invalid, or the file cannot be stored.
    pub async fn read(
        &mut self,
        mut form: Multipart,
        upload: FileUpload,
    ) -> Result<(FormFields, Option<UploadedFile>), ApiError> {
        let (mut fields, mut file, mut upload) = (FormFields::default(), None, Some(upload));
        let (timeout, slow) = (self.read_timeout, self.read_timeout);
        while let Some(mut field) = tokio::time::timeout(timeout, form.next_field())
            .await
            .map_err(|_| ApiError::request_timeout(slow))?
            .map_err(|_| incomplete_form())?
        {
            let name = field.name().unwrap_or_default().to_owned();
            self.update_digest(name.as_bytes());
            if name == "file" {
                let Some(upload) = upload.take() else {
                    return Err(ValidationError::new("file", "is given twice; send one file a job").into());
                };
                file = Some(self.read_file(&mut field, upload).await?);
            } else if let Some(place) = fields.field_mut(&name) {
                let text = self.read_text(&mut field, &name).await?;
                *place = Some(text).filter(|text| !text.trim().is_empty());
            } else {
                // Unknown fields are skipped.
                while self.read_chunk(&mut field).await?.is_some() {}
            }
        }
        Ok((fields, file))
    }

    async fn read_file(
        &mut self,
        field: &mut Field<'_>,
        mut upload: FileUpload,
    ) -> Result<UploadedFile, ApiError> {
        let name = field.file_name().unwrap_or("archivo.csv").to_owned();
        while let Some(piece) = self.read_chunk(field).await? {
            upload.write(piece).await?;
        }
        Ok(UploadedFile { name, draft: upload.finish().await? })
    }

    async fn read_text(&mut self, field: &mut Field<'_>, name: &str) -> Result<String, ApiError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.read_chunk(field).await? {
            if bytes.len() + piece.len() > MAX_TEXT_BYTES {
                return Err(ValidationError::new(
                    name,
                    format!("must not be longer than {MAX_TEXT_BYTES} bytes"),
                )
                .into());
            }
            bytes.extend_from_slice(&piece);
        }
        String::from_utf8(bytes).map_err(|_| ValidationError::new(name, "is not UTF-8").into())
    }

    async fn read_chunk(&mut self, field: &mut Field<'_>) -> Result<Option<bytes::Bytes>, ApiError> {
        let piece = tokio::time::timeout(self.read_timeout, field.chunk()).await;
        let piece = piece
            .map_err(|_| ApiError::request_timeout(self.read_timeout))?
            .map_err(|_| incomplete_form())?;
        if let Some(piece) = &piece {
            self.received_bytes += piece.len();
            if self.received_bytes > self.limit {
                return Err(ApiError::payload_too_large(self.limit));
            }
            self.update_digest(piece);
        }
        Ok(piece)
    }

    fn update_digest(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }
}

fn incomplete_form() -> ApiError {
    ValidationError::new("body", "the form broke off, or is no multipart/form-data").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(given: &[(&str, &str)]) -> FormFields {
        let mut fields = FormFields::default();
        for (name, text) in given {
            *fields.field_mut(name).unwrap() = Some((*text).to_owned());
        }
        fields
    }

    fn invalid_field(given: &[(&str, &str)]) -> String {
        let mut all = vec![("message", "hola")];
        all.extend(given);
        match fields(&all).into_job(Uuid::nil(), String::new(), Timestamp(1_768_000_000_000)) {
            Err(invalid) => invalid.field,
            Ok(_) => String::new(),
        }
    }

    #[test]
    fn invalid_form_field_is_named() {
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
            assert_eq!(invalid_field(&given), field, "{given:?}");
        }
    }

    #[test]
    fn instances_are_split_at_commas() {
        let Ok(SenderSelection::Named(named)) = fields(&[("instances", "uno, dos,")]).senders() else {
            panic!("not named")
        };
        assert_eq!(named.iter().map(ToString::to_string).collect::<Vec<_>>(), ["uno", "dos"]);
        assert_eq!(fields(&[]).senders(), Ok(SenderSelection::Any { limit: 5 }));
    }
}
