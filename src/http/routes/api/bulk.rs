//! Bulk messages of `/api`: stored as a bulk job, and answered when it is durable or when it has ended.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use uuid::Uuid;

use super::bulk_kind::{BulkContent, BulkKind, BulkRequest, RecipientContent};
use super::content::InteractiveFrame;
use super::counts::job_counts;
use super::json_fields::{self, JsonFields};
use super::responses::{BulkSendResponse, SendMessageResponse};
use super::single::IncomingRequest;
use super::target::target_instance;
use crate::bulk::{self, JobProgress, NewJob, OnSuppressed, Plan, SenderSelection};
use crate::http::AppState;
use crate::http::api::error::ApplicationError;
use crate::http::body::{self, ReceivedBody};
use crate::http::body_memory::BodyMemory;
use crate::http::error::ApiError;
use crate::http::extract::SendOptions;
use crate::http::phone_warnings::PhoneWarning;
use crate::http::routes::jobs::job_id_from_digest;
use crate::instance;
use crate::queue::IdempotencyKey;
use relevo_clock::Random;
use relevo_domain::{
    Content, ErrorKind, Header, InstanceId, InstanceState, MessageOptions, OutboundMessage, Recipient,
    RecipientParser,
};

/// The paths where one of the two documents sends directly unless `use_queue` is set.
const DIRECT_SEND_PREFIX: &str = "/api/messages/";

/// Maximum number of warnings in one response.
const MAX_WARNINGS: usize = 100;

/// How long a request waits for an instance that cannot send now, such as one that is just connecting.
const BLOCKED_WAIT: Duration = Duration::from_secs(2);

/// A parsed request for many messages.
struct ParsedBulkRequest {
    instance: Option<String>,
    bulk: BulkRequest,
    queued: bool,
    key: Option<IdempotencyKey>,
}

/// The messages of the recipients, with every file stored.
enum StoredBulkContent {
    Common(Content),
    /// The content of one recipient, built on demand: a frame may be much longer than the text in it.
    Framed {
        frame: InteractiveFrame<Header>,
        own: Vec<RecipientContent>,
    },
    Each(Vec<Content>),
}

impl StoredBulkContent {
    /// The part of the content that only the `n`th recipient gets.
    fn content_of_recipient(&self, n: usize) -> Option<Cow<'_, Content>> {
        match self {
            StoredBulkContent::Common(_) => None,
            StoredBulkContent::Framed { frame, own } => {
                own.get(n).map(|own| Cow::Owned(own.to_content(frame.clone())))
            }
            StoredBulkContent::Each(contents) => contents.get(n).map(Cow::Borrowed),
        }
    }
}

/// Sends or queues one message to each recipient.
///
/// # Errors
///
/// The request is invalid, no instance is available, the instance rejects a message, or the job does not end in
/// time.
pub(super) async fn submit_bulk(
    state: &AppState,
    incoming: IncomingRequest,
    kind: BulkKind,
) -> Result<Response, ApplicationError> {
    let IncomingRequest { instance: header, sending, request } = incoming;
    let queues = !(kind.is_announcement() && request.uri().path().starts_with(DIRECT_SEND_PREFIX));
    let ReceivedBody { bytes, memory } =
        body::receive_body(request, state.options.media_body_limit, state).await?;
    let parsed =
        body::parse_off_thread(bytes, move |body| parse_request(kind, body, &sending, queues)).await?;
    let instance = target_instance(state, header.or(parsed.instance))?;
    let id = job_id(&state.services.random, &instance, parsed.key);
    let warnings = warnings(&parsed.bulk.phones, state.recipients());
    // A repetition is answered whatever has changed since; for example, the instance may be disconnected.
    if state.services.bulk.get(id).is_err() {
        if !parsed.queued {
            require_connected(state, &instance)?;
        }
        start_job(state, &instance, kind, id, parsed.bulk, memory).await?;
    }
    if parsed.queued {
        let waits_for = state.services.bulk.get(id).map_err(ApiError::from)?.progress.error;
        let message = kind.success_messages().1;
        let queued = SendMessageResponse::queued_job(message, id, waits_for);
        return Ok(Json(queued.with_warnings(warnings)).into_response());
    }
    wait_for_job(state, kind, id, warnings).await
}

/// Stores the files of a request, checks its messages, and creates its job.
async fn start_job(
    state: &AppState,
    instance: &InstanceId,
    kind: BulkKind,
    id: Uuid,
    request: BulkRequest,
    memory: Option<BodyMemory>,
) -> Result<(), ApplicationError> {
    let BulkRequest { phones, content } = request;
    let stored = store_media(content, &state.services.instances).await?;
    // Inline files are on the disk now; the memory is free for other requests.
    drop(memory);
    let phones = completed(phones, state.recipients());
    let (phones, stored) = (Arc::new(phones), Arc::new(stored));
    check_messages(state, instance, kind, &phones, &stored).await?;
    create_job(state, instance, kind, id, phones, stored).await
}

/// The warnings about the numbers, up to [`MAX_WARNINGS`].
fn warnings(phones: &[String], recipients: RecipientParser) -> Vec<PhoneWarning> {
    let parsed = phones.iter().filter_map(|phone| recipients.parse(phone).ok());
    parsed.filter_map(|to| PhoneWarning::spanish(&to)).take(MAX_WARNINGS).collect()
}

/// The phones as given, but with the code of the node's default country where it completes one.
fn completed(phones: Vec<String>, recipients: RecipientParser) -> Vec<String> {
    if recipients.default_country.is_none() {
        return phones;
    }
    let complete = |phone: String| {
        let is_complete = |to: &Recipient| phone.parse::<Recipient>().is_ok_and(|given| given == *to);
        match recipients.parse(&phone) {
            Ok(to) if !is_complete(&to) => to.to_string(),
            _ => phone,
        }
    };
    phones.into_iter().map(complete).collect()
}

fn parse_request(
    kind: BulkKind,
    body: &[u8],
    sending: &SendOptions,
    queues: bool,
) -> Result<ParsedBulkRequest, ApplicationError> {
    let map = json_fields::parse(body)?;
    let fields = JsonFields::new(&map);
    let letters = kind.parse(fields)?;
    let queued = fields.flag("use_queue", queues)?;
    let key = sending.idempotency_key(kind.as_str(), body);
    Ok(ParsedBulkRequest { instance: fields.optional("instance_id")?, bulk: letters, queued, key })
}

/// The id of the job of a request. With an idempotency key, the same request to the same instance has the same id.
fn job_id(random: &Random, instance: &InstanceId, key: Option<IdempotencyKey>) -> Uuid {
    let Some(IdempotencyKey { key, body }) = key else { return random.uuid() };
    job_id_from_digest(Sha256::new().chain_update(key).chain_update(body).chain_update(instance.as_str()))
}

/// Rejects a request that waits for its end when an operator has disconnected the instance.
fn require_connected(state: &AppState, instance: &InstanceId) -> Result<(), ApplicationError> {
    let view = state.services.instances.get(instance)?;
    let (now, reason) = (view.state.state, view.state.reason);
    match now {
        InstanceState::Connected | InstanceState::Connecting => Ok(()),
        _ => Err(instance::Error::NotConnected { state: now, reason }.into()),
    }
}

async fn store_media(
    content: BulkContent,
    instances: &instance::Handle,
) -> Result<StoredBulkContent, instance::Error> {
    Ok(match content {
        BulkContent::Common(draft) => StoredBulkContent::Common(draft.store_media(instances).await?),
        BulkContent::Framed { frame, own } => {
            StoredBulkContent::Framed { frame: frame.store_media(instances).await?, own }
        }
        BulkContent::Each(drafts) => {
            let mut contents = Vec::with_capacity(drafts.len());
            for draft in drafts {
                contents.push(draft.store_media(instances).await?);
            }
            StoredBulkContent::Each(contents)
        }
    })
}

/// Rejects the request when its instance would reject one of the messages, before any is sent. An invalid phone fails
/// only its own message.
async fn check_messages(
    state: &AppState,
    instance: &InstanceId,
    kind: BulkKind,
    phones: &[String],
    stored: &StoredBulkContent,
) -> Result<(), ApplicationError> {
    let mut checker = state.services.instances.message_checker(instance)?;
    let refused = |error: instance::Error| match error.invalid() {
        Some(invalid) => ApplicationError::from(kind.message_kind().with_field_name(invalid)),
        None => ApplicationError::from(error),
    };
    for (n, phone) in phones.iter().enumerate() {
        // Yields to other requests between messages.
        tokio::task::consume_budget().await;
        let Ok(to) = phone.parse() else { continue };
        if let StoredBulkContent::Common(content) = stored {
            let message = OutboundMessage {
                to,
                content: content.clone(),
                quote: None,
                options: MessageOptions::default(),
            };
            return checker.check(&message).await.map_err(|error| refused(error).with_send_prefix());
        }
        let Some(content) = stored.content_of_recipient(n).map(Cow::into_owned) else { continue };
        let checked = checker
            .check(&OutboundMessage { to, content, quote: None, options: MessageOptions::default() })
            .await;
        checked.map_err(|error| {
            refused(error).with_field_prefix(&format!("recipients[{n}]")).with_send_prefix()
        })?;
    }
    Ok(())
}

async fn create_job(
    state: &AppState,
    instance: &InstanceId,
    kind: BulkKind,
    id: Uuid,
    phones: Arc<Vec<String>>,
    stored: Arc<StoredBulkContent>,
) -> Result<(), ApplicationError> {
    let plan = match stored.as_ref() {
        StoredBulkContent::Common(content) => Plan::Common(content.clone()),
        StoredBulkContent::Framed { .. } | StoredBulkContent::Each(_) => Plan::PerRow,
    };
    let bulk = state.services.bulk.clone();
    let write = move || {
        let mut list = bulk.list_draft()?;
        for (n, phone) in phones.iter().enumerate() {
            list.push(phone, stored.content_of_recipient(n).as_deref())?;
        }
        list.finish()
    };
    let written = tokio::task::spawn_blocking(write).await.map_err(|_| ApiError::handler_panicked())?;
    let draft = written.map_err(ApiError::from)?;
    let suppressed = if kind.is_announcement() { OnSuppressed::Skip } else { OnSuppressed::Send };
    let job = NewJob {
        id,
        kind: bulk::JobKind::List,
        file_name: None,
        plan,
        senders: SenderSelection::Named(vec![instance.clone()]),
        send_at: None,
        window: None,
        suppressed,
    };
    match state.services.bulk.create(job, draft).await {
        // A repeated request; its job exists.
        Ok(_) | Err(bulk::Error::Exists(_)) => Ok(()),
        Err(error) => Err(ApiError::from(error).into()),
    }
}

/// Waits for the end of a job. Returns `false` when it has waited for an instance that cannot send for longer than
/// [`BLOCKED_WAIT`]: the caller is told instead of waiting for its limit.
async fn wait_for_end(progress: &mut watch::Receiver<JobProgress>) -> bool {
    loop {
        let changed = progress.wait_for(|progress| progress.status.is_finished() || progress.error.is_some());
        match changed.await.map(|progress| progress.status.is_finished()) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(_) => return false,
        }
        let goes_on = progress.wait_for(|progress| progress.status.is_finished() || progress.error.is_none());
        if !matches!(tokio::time::timeout(BLOCKED_WAIT, goes_on).await, Ok(Ok(_))) {
            return false;
        }
    }
}

/// Waits for the end of a job and returns its counts.
async fn wait_for_job(
    state: &AppState,
    kind: BulkKind,
    id: Uuid,
    warnings: Vec<PhoneWarning>,
) -> Result<Response, ApplicationError> {
    let mut progress = state.services.bulk.watch(id).map_err(ApiError::from)?;
    let ending = wait_for_end(&mut progress);
    let ended = tokio::time::timeout(state.options.broadcast_wait, ending).await.unwrap_or(false);
    if !ended {
        let waits_for = progress.borrow().error.clone();
        let details = match waits_for {
            Some(cause) => format!("the messages wait: {cause}; ask for them: GET /api/task-status/{id}"),
            None => format!("the messages are still being sent; ask for them: GET /api/task-status/{id}"),
        };
        return Err(ApplicationError::from(ApiError::new(ErrorKind::Ambiguous, details))
            .with_success_false()
            .with_task_id(id));
    }
    let progress = state.services.bulk.get(id).map_err(ApiError::from)?.progress;
    let result = job_counts(&state.services.bulk, id, &progress).await?;
    Ok(Json(BulkSendResponse::new(kind.success_messages().0, id, result, warnings)).into_response())
}
