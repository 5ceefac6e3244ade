//! Messages of `/api` to many: kept as a bulk job, and answered when it is durable or when it has ended.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bulk::{self, NewJob, OnSuppressed, Plan, Progress, RowResult, RowStatus, Senders};
use crate::http::body::Arrived;
use crate::http::error::ApiError;
use crate::http::extract::Sending;
use crate::http::flask::Refusal;
use crate::http::{AppState, body};
use crate::instance;
use crate::queue::IdempotencyKey;
use relevo_domain::{Content, ErrorKind, Header, InstanceId, InstanceState, Manner, OutboundMessage};

use super::answers::{Counts, Done, ManySent};
use super::contents::Frame;
use super::fields::{self, Fields};
use super::many::{Letters, Many, Own, Said};
use super::sending::{Incoming, aside, chosen};

/// Where the second of the two documents sends directly unless it is asked for a queue.
const DIRECT: &str = "/api/messages/";

/// Rows that are read at once for an answer.
const AT_ONCE: u32 = 1_000;

/// Failures that an answer names; the others are counted, and listed at `/jobs/{id}/errors`.
const MOST_ERRORS: usize = 1_000;

/// A request for many messages, as it was understood.
struct Asked {
    instance: Option<String>,
    letters: Letters,
    queued: bool,
    key: Option<IdempotencyKey>,
}

/// What each recipient gets, with every file on the disk.
enum Kept {
    Common(Content),
    /// Put together one at a time: a frame may be a thousand times as long as what it is around.
    Framed {
        frame: Frame<Header>,
        own: Vec<Own>,
    },
    Each(Vec<Content>),
}

impl Kept {
    /// What the `n`th recipient gets and others do not.
    fn own(&self, n: usize) -> Option<Cow<'_, Content>> {
        match self {
            Kept::Common(_) => None,
            Kept::Framed { frame, own } => own.get(n).map(|own| Cow::Owned(own.within(frame.clone()))),
            Kept::Each(contents) => contents.get(n).map(Cow::Borrowed),
        }
    }
}

/// Sends one message to each of many, or queues them.
pub(super) async fn many(state: &AppState, incoming: Incoming, kind: Many) -> Result<Response, Refusal> {
    let Incoming { instance: header, sending, request } = incoming;
    let queues = !(kind.is_announcement() && request.uri().path().starts_with(DIRECT));
    let Arrived { bytes, room } = body::receive(request, state.options.media_body_limit, state).await?;
    let asked = aside(bytes.len(), move || understand(kind, &bytes, &sending, queues)).await?;
    let instance = chosen(state, header.or(asked.instance))?;
    let id = job_id(&instance, asked.key);
    if !asked.queued {
        must_be_connected(state, &instance)?;
    }
    let Letters { phones, said } = asked.letters;
    let kept = keep(said, &state.services.instances).await?;
    // From here on files that came inside are on the disk; others may have the room.
    drop(room);
    let (phones, kept) = (Arc::new(phones), Arc::new(kept));
    check(state, &instance, kind, &phones, &kept).await?;
    create(state, &instance, kind, id, phones, kept).await?;
    if asked.queued {
        return Ok(Json(Done::job(kind.words().1, id)).into_response());
    }
    wait(state, kind, id).await
}

fn understand(kind: Many, body: &[u8], sending: &Sending, queues: bool) -> Result<Asked, Refusal> {
    let map = fields::parse(body)?;
    let fields = Fields::new(&map);
    let letters = kind.read(fields)?;
    let queued = fields.flag("use_queue", queues)?;
    let key = sending.idempotency(kind.as_str(), body);
    Ok(Asked { instance: fields.optional("instance_id")?, letters, queued, key })
}

/// The id of a request's job. The same request to the same instance is the same job (a version 8 UUID, RFC 9562 §5.8).
fn job_id(instance: &InstanceId, key: Option<IdempotencyKey>) -> Uuid {
    let Some(IdempotencyKey { key, body }) = key else { return Uuid::new_v4() };
    let digest = Sha256::new().chain_update(key).chain_update(body).chain_update(instance.as_str());
    let digest: [u8; 32] = digest.finalize().into();
    uuid::Builder::from_custom_bytes(digest.first_chunk().copied().unwrap_or_default()).into_uuid()
}

/// Whoever waits for the end should not wait for an instance that nobody lets go on.
fn must_be_connected(state: &AppState, instance: &InstanceId) -> Result<(), Refusal> {
    let view = state.services.instances.get(instance)?;
    let (now, reason) = (view.state.state, view.state.reason);
    match now {
        InstanceState::Connected | InstanceState::Connecting => Ok(()),
        _ => Err(instance::Error::NotConnected { state: now, reason }.into()),
    }
}

async fn keep(said: Said, instances: &instance::Handle) -> Result<Kept, instance::Error> {
    Ok(match said {
        Said::Common(draft) => Kept::Common(draft.keep(instances).await?),
        Said::Framed { frame, own } => Kept::Framed { frame: frame.keep(instances).await?, own },
        Said::Each(drafts) => {
            let mut contents = Vec::with_capacity(drafts.len());
            for draft in drafts {
                contents.push(draft.keep(instances).await?);
            }
            Kept::Each(contents)
        }
    })
}

/// Refuses the request when its instance would refuse one of the messages, before any is sent. A phone that is none
/// costs its own message and is reported with the others that failed.
async fn check(
    state: &AppState,
    instance: &InstanceId,
    kind: Many,
    phones: &[String],
    kept: &Kept,
) -> Result<(), Refusal> {
    let mut gate = state.services.instances.gate(instance)?;
    let refused = |error: instance::Error| match error.invalid() {
        Some(invalid) => Refusal::from(kind.of_each().about(invalid)),
        None => Refusal::from(error),
    };
    for (n, phone) in phones.iter().enumerate() {
        // Others are served between two of many.
        tokio::task::consume_budget().await;
        let Ok(to) = phone.parse() else { continue };
        if let Kept::Common(content) = kept {
            let message =
                OutboundMessage { to, content: content.clone(), quote: None, manner: Manner::default() };
            return gate.check(&message).await.map_err(|error| refused(error).while_sending());
        }
        let Some(content) = kept.own(n).map(Cow::into_owned) else { continue };
        let checked =
            gate.check(&OutboundMessage { to, content, quote: None, manner: Manner::default() }).await;
        checked.map_err(|error| refused(error).within(&format!("recipients[{n}]")).while_sending())?;
    }
    Ok(())
}

async fn create(
    state: &AppState,
    instance: &InstanceId,
    kind: Many,
    id: Uuid,
    phones: Arc<Vec<String>>,
    kept: Arc<Kept>,
) -> Result<(), Refusal> {
    let plan = match kept.as_ref() {
        Kept::Common(content) => Plan::Common(content.clone()),
        Kept::Framed { .. } | Kept::Each(_) => Plan::PerRow,
    };
    let bulk = state.services.bulk.clone();
    let write = move || {
        let mut list = bulk.list_draft()?;
        for (n, phone) in phones.iter().enumerate() {
            list.push(phone, kept.own(n).as_deref())?;
        }
        list.finish()
    };
    let written = tokio::task::spawn_blocking(write).await.map_err(|_| ApiError::panicked())?;
    let draft = written.map_err(ApiError::from)?;
    let suppressed = if kind.is_announcement() { OnSuppressed::Skip } else { OnSuppressed::Send };
    let job = NewJob {
        id,
        kind: bulk::Kind::List,
        file_name: None,
        plan,
        senders: Senders::Named(vec![instance.clone()]),
        send_at: None,
        window: None,
        suppressed,
    };
    match state.services.bulk.create(job, draft).await {
        // The request came before, and its job stands.
        Ok(_) | Err(bulk::Error::Exists(_)) => Ok(()),
        Err(error) => Err(ApiError::from(error).into()),
    }
}

/// Waits for the end of a job and tells how it went.
async fn wait(state: &AppState, kind: Many, id: Uuid) -> Result<Response, Refusal> {
    let mut progress = state.services.bulk.watch(id).map_err(ApiError::from)?;
    let ending = progress.wait_for(|progress| progress.status.is_finished());
    let ended = tokio::time::timeout(state.options.broadcast_wait, ending).await.is_ok_and(|end| end.is_ok());
    if !ended {
        let details = format!("the messages are still being sent; ask for them: GET /api/task-status/{id}");
        return Err(Refusal::from(ApiError::new(ErrorKind::Ambiguous, details)).unsuccessful().task(id));
    }
    let progress = state.services.bulk.get(id).map_err(ApiError::from)?.progress;
    let result = counts(&state.services.bulk, id, &progress).await?;
    Ok(Json(ManySent::new(kind.words().0, id, result)).into_response())
}

/// How many messages of a job ended how, and why the failed ones did, in the order of the request.
pub(super) async fn counts(bulk: &bulk::Handle, id: Uuid, progress: &Progress) -> Result<Counts, ApiError> {
    let counts = progress.counts;
    let not_sent = counts.failed + counts.skipped + counts.cancelled;
    let mut errors = Vec::new();
    let mut next = (not_sent > 0).then_some(0);
    while let Some(from) = next.filter(|_| errors.len() < MOST_ERRORS.min(not_sent as usize)) {
        let page = bulk.results(id, from, AT_ONCE).await?;
        errors.extend(page.rows.iter().filter_map(error_of));
        next = page.next;
    }
    errors.truncate(MOST_ERRORS);
    let errors_truncated = (not_sent as usize > MOST_ERRORS).then_some(true);
    let sent = u64::from(counts.sent);
    Ok(Counts {
        total: u64::from(progress.total),
        successful: sent,
        sent,
        failed: u64::from(not_sent),
        errors,
        errors_truncated,
    })
}

/// What `errors` says of a row that was not sent.
fn error_of(row: &RowResult) -> Option<String> {
    let cause = match row.status {
        RowStatus::Skipped => "está en la lista de supresión".to_owned(),
        status if status.is_failure() || status.as_str() == "cancelled" => {
            row.error.clone().unwrap_or_else(|| status.as_str().to_owned())
        }
        _ => return None,
    };
    let code = row.code.map(|code| format!(" ({code})")).unwrap_or_default();
    Some(format!("Error para {}: {cause}{code}", row.phone))
}
