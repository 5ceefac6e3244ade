//! The form of `POST /messages/send-bulk-file`, on its way in: the file to the disk, the other fields into a job.

use std::time::Duration;

use axum::extract::multipart::{Field, Multipart};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bulk::{Draft, Kind, NewJob, OnSuppressed, Plan, Senders, Upload, Window};
use crate::http::error::ApiError;
use crate::http::moment::Moment;
use crate::http::routes::sending::ahead;
use relevo_domain::{InstanceId, Invalid, Timestamp};

/// Instances that share a job when nobody says how many (bulk-file-jobs.md).
const DEVICES: u8 = 5;

/// The longest text of a field, in bytes. WhatsApp takes 4096 characters; a template may be longer than what becomes
/// of it.
const LONGEST_TEXT: usize = 64 << 10;

/// The file of a form, on the disk.
pub(super) struct File {
    pub name: String,
    pub draft: Draft,
}

/// The other fields of a form; what is empty counts as left out.
#[derive(Default)]
pub(super) struct Fields {
    message: Option<String>,
    devices_limit: Option<String>,
    pub instances: Option<String>,
    send_at: Option<String>,
    window_from: Option<String>,
    window_to: Option<String>,
    window_timezone: Option<String>,
    include_suppressed: Option<String>,
    dry_run: Option<String>,
}

/// What the caller wants done.
pub(super) enum Wanted {
    DryRun {
        text: String,
        senders: Senders,
    },
    /// With its text.
    Job(String, Box<NewJob>),
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

    pub fn into_job(self, id: Uuid, file_name: String, now: Timestamp) -> Result<Wanted, Invalid> {
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
        let (kind, plan, file_name) = (Kind::File, Plan::Text(text.clone()), Some(file_name));
        let job = NewJob { id, kind, file_name, plan, senders, send_at, window, suppressed };
        Ok(Wanted::Job(text, Box::new(job)))
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
pub(super) struct Arriving {
    /// Bytes that the form may have.
    pub limit: usize,
    /// How long a piece may take.
    pub patience: Duration,
    pub arrived: usize,
    /// Of everything that arrives, where a repetition must be recognised.
    pub digest: Option<Sha256>,
}

impl Arriving {
    pub async fn read(
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
