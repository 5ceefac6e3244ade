//! `GET /ws/job/{job_id}`: the progress of a job as the WebSocket frames of the documented API.
//!
//! A subscriber receives the current state first, every error once, and progress at most [`MAX_FRAMES_PER_SECOND`]
//! times a second, or less often if the client is slower. The final state is always sent.

use std::collections::VecDeque;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::dto::{ProgressBody, results_json};
use crate::bulk::{self, JobProgress, JobStatus, LastRow, RowError};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::JobIdPath;
use crate::http::stream::websocket::{self, CloseReason, FrameSource};

/// Maximum number of progress frames a second.
const MAX_FRAMES_PER_SECOND: u32 = 20;

/// Errors read at once.
const ERRORS_PER_READ: u32 = 200;

/// Rows of a documented chunk (bulk-file-jobs.md, "chunks de 1,000").
const CHUNK_ROWS: u32 = 1_000;

/// The close code for an unknown job; 4000 to 4999 are for applications (RFC 6455 §7.4.2).
const CLOSE_JOB_NOT_FOUND: u16 = 4404;

/// The progress of a job as WebSocket frames: `subscribed`, `job_started`, `chunk_processing`, `progress`, `error`,
/// `job_paused`, `job_completed`, `job_failed`, `job_cancelled`. For an unknown job the socket is closed with code
/// 4404. `{"type":"ping"}` is answered with `pong`.
#[utoipa::path(get, path = "/ws/job/{job_id}", operation_id = "job_socket", tag = "jobs", params(JobIdPath), responses(
    (status = 101, description = "Frames follow."),
    (status = 400, description = "The request is not an upgrade.", body = ErrorBody),
    (status = 503, description = "The limit of streams is reached.", body = ErrorBody),
))]
pub async fn open(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    job: Result<JobIdPath, ApiError>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let bulk = state.services.bulk.clone();
    // Browsers do not expose the status of a rejected upgrade, so the socket is accepted and closed.
    let feed = job.ok().and_then(|JobIdPath(id)| JobFrameSource::new(bulk, id));
    websocket::accept_upgrade(&state, &headers, upgrade, feed)
}

/// The state that one subscriber has received.
struct JobFrameSource {
    bulk: bulk::Handle,
    id: Uuid,
    progress: watch::Receiver<JobProgress>,
    /// The last state that was sent.
    last_sent: Option<JobProgress>,
    /// The cursor after the last error that was sent.
    errors_cursor: u64,
    /// The earliest time of the next progress frame.
    not_before: Instant,
    pending_frames: VecDeque<Value>,
}

impl FrameSource for Option<JobFrameSource> {
    async fn next_frame(&mut self) -> Result<String, CloseReason> {
        match self {
            Some(feed) => feed.next().await,
            None => Err(CloseReason::new(CLOSE_JOB_NOT_FOUND, "Job no encontrado")),
        }
    }

    fn resume_hint(&self) -> String {
        "subscribe again; the present state comes first".to_owned()
    }
}

impl JobFrameSource {
    fn new(bulk: bulk::Handle, id: Uuid) -> Option<Self> {
        let progress = bulk.watch(id).ok()?;
        let message = format!("Suscrito a las actualizaciones del job {id}");
        let subscribed = json!({ "type": "subscribed", "job_id": id, "message": message });
        let waiting = VecDeque::from([subscribed]);
        Some(Self {
            bulk,
            id,
            progress,
            last_sent: None,
            errors_cursor: 0,
            not_before: Instant::now(),
            pending_frames: waiting,
        })
    }

    /// Waits for the next frame. Cancel safe.
    async fn next(&mut self) -> Result<String, CloseReason> {
        loop {
            if let Some(frame) = self.pending_frames.pop_front() {
                return Ok(frame.to_string());
            }
            let news = self.last_sent.as_ref() != Some(&*self.progress.borrow_and_update());
            if news {
                tokio::time::sleep_until(self.not_before).await;
                self.collect_frames().await?;
            } else if self.progress.changed().await.is_err() {
                return Err(CloseReason::new(websocket::CLOSE_NORMAL, "the job was deleted"));
            }
        }
    }

    /// Converts changes into frames.
    async fn collect_frames(&mut self) -> Result<(), CloseReason> {
        let now = self.progress.borrow().clone();
        let gone = |_| CloseReason::new(websocket::CLOSE_NORMAL, "the job was deleted");
        let (errors, behind) = match self.errors_cursor < now.errors_end {
            true => self.bulk.errors(self.id, self.errors_cursor, ERRORS_PER_READ).await.map_err(gone)?,
            false => (Vec::new(), self.errors_cursor),
        };
        let body = ProgressBody::from(&now);
        self.push_start_frames(&now);
        for error in &errors {
            self.pending_frames.push_back(self.error_frame(error, &body));
        }
        self.errors_cursor = behind;
        if behind < now.errors_end {
            // More errors follow; the state is sent after the last one.
            return Ok(());
        }
        self.pending_frames.push_back(self.progress_frame(&now, &body));
        if self.last_sent.as_ref().map(|previous| previous.status) != Some(now.status) {
            self.pending_frames.extend(self.status_frame(&now));
        }
        self.last_sent = Some(now);
        self.not_before = Instant::now() + Duration::from_secs(1) / MAX_FRAMES_PER_SECOND;
        Ok(())
    }

    /// Adds the frames of the start and of new chunks.
    fn push_start_frames(&mut self, now: &JobProgress) {
        let before = self.last_sent.as_ref();
        if now.started_at.is_some() && before.is_none_or(|previous| previous.started_at.is_none()) {
            let message = format!("Iniciando envío masivo de {} mensajes", now.total);
            let started = json!({ "type": "job_started", "job_id": self.id, "message": message });
            self.pending_frames.push_back(started);
        }
        if now.taken == 0 || before.is_some_and(|previous| previous.taken == now.taken) {
            return;
        }
        let last = (now.taken - 1) / CHUNK_ROWS;
        let first = match before {
            // A late subscriber receives only the current chunk.
            None => last,
            Some(previous) => previous.taken.div_ceil(CHUNK_ROWS),
        };
        for chunk in first..=last {
            let (start, end) = (chunk * CHUNK_ROWS, ((chunk + 1) * CHUNK_ROWS).min(now.total));
            self.pending_frames.push_back(json!({
                "type": "chunk_processing",
                "job_id": self.id,
                "chunk_start": start,
                "chunk_end": end,
                "total": now.total,
                "message": format!("Procesando chunk {start}-{end} de {}", now.total),
            }));
        }
    }

    fn progress_frame(&self, now: &JobProgress, body: &ProgressBody) -> Value {
        let moved = now.last.as_ref().map(|LastRow { phone, status, device_id, instance, .. }| {
            json!({
                "type": "progress",
                "job_id": self.id,
                "device_id": device_id,
                "instance_id": instance,
                "phone": phone,
                "status": status.as_str(),
                "progress": body,
            })
        });
        let mut frame =
            moved.unwrap_or_else(|| json!({ "type": "progress", "job_id": self.id, "progress": body }));
        if let (Some(waits_for), Some(fields)) = (&now.error, frame.as_object_mut()) {
            fields.insert("error".to_owned(), json!(waits_for));
        }
        frame
    }

    fn error_frame(&self, error: &RowError, body: &ProgressBody) -> Value {
        json!({
            "type": "error",
            "job_id": self.id,
            "device_id": error.device_id,
            "instance_id": error.instance,
            "line": error.line,
            "phone": error.phone,
            "error": error.error,
            "code": error.code,
            "ambiguous": error.ambiguous,
            "progress": body,
        })
    }

    /// Adds the frame of a status change.
    fn status_frame(&self, now: &JobProgress) -> Option<Value> {
        let (job_id, status) = (self.id, now.status.as_str());
        let ended =
            |kind| json!({ "type": kind, "job_id": job_id, "status": status, "results": results_json(now) });
        match now.status {
            JobStatus::Pending | JobStatus::Processing => None,
            JobStatus::Paused => Some(json!({ "type": "job_paused", "job_id": job_id, "status": status })),
            JobStatus::Completed => Some(ended("job_completed")),
            JobStatus::Cancelled => Some(ended("job_cancelled")),
            JobStatus::Failed => {
                let error = now.error.as_deref().unwrap_or("El job falló");
                let message = format!("El job no pudo continuar: {error}");
                Some(json!({ "type": "job_failed", "job_id": job_id, "error": error, "message": message }))
            }
        }
    }
}
