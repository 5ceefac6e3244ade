//! The way of a job from its source into the queue.

use std::time::Duration;

use serde_json::json;

use crate::events::{self, Event};
use crate::queue::{self, Submission};
use relevo_domain::{BulkItem, Class, EventKind, MessageId, Mode, Timestamp};
use relevo_store as store;

use super::Error;
use super::actor::{State, UNCONTENDED_PAGE};
use super::job::JobStatus;
use super::job_files::{Batch, CHUNK_ROWS, OpenRow, OutgoingRow};
use super::senders::{self, SenderInstance};
use super::sending_hours::HoursState;
use super::storage::Checkpoint;

/// How often a running job looks which instances live, and whether a full queue has room again.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// For so many looks, rows should be in the queue: a job that waits for rows is slow.
const LOOKAHEAD_POLLS: usize = 4;

/// Rows in the queue that a job begins with.
const INITIAL_WINDOW: usize = UNCONTENDED_PAGE;

/// A moment that is further away is looked at again before, because the clock may be set.
const MAX_SLEEP: Duration = Duration::from_secs(600);

/// Takes a job as far as it can go now. Tells after how long there is more to do, if nothing happens before.
pub(super) async fn advance(state: &mut State) -> Result<Option<Duration>, Error> {
    let now = state.now();
    state.waits_for = None;
    if let Some(at) = state.record.send_at.filter(|at| *at > now) {
        return Ok(Some(at.since(now).min(MAX_SLEEP)));
    }
    let closes = match state.record.window.as_ref().map(|window| window.state_at(now)) {
        Some(HoursState::Closed { opens }) => {
            state.withdraw(state.open_messages()).await?;
            state.waits_for = Some(format!("the sending window opens at {opens}"));
            return Ok(Some(opens.since(now).min(MAX_SLEEP)));
        }
        Some(HoursState::Open { closes }) => Some(closes),
        None => None,
    };
    if state.checkpoint.status == JobStatus::Pending {
        start_job(state, now).await?;
    }
    let pool = refresh_pool(state, now).await?;
    if pool.is_empty() && !is_source_exhausted(state) {
        state.waits_for = Some("none of the job's instances is connected".to_owned());
        return Ok(Some(POLL_INTERVAL));
    }
    let more = fill_window(state, &pool, closes).await?;
    if !more && state.open_rows.is_empty() && state.checkpoint.returned.is_empty() {
        if !state.checkpoint.status.is_finished() {
            finish_job(state, JobStatus::Completed, None).await?;
        }
        return Ok(None);
    }
    let until_close = closes.map(|closes| closes.since(state.now()).max(Duration::from_millis(1)));
    Ok(Some(until_close.map_or(POLL_INTERVAL, |left| left.min(POLL_INTERVAL))))
}

/// Whether nothing is left to be handed over.
fn is_source_exhausted(state: &State) -> bool {
    let standing = &state.checkpoint;
    standing.returned.is_empty() && standing.retry.is_none() && standing.cursor.row >= state.record.total
}

/// Who may send now. What those who may not had not begun is taken back, if there is somebody to take it over.
async fn refresh_pool(state: &mut State, now: Timestamp) -> Result<Vec<SenderInstance>, Error> {
    let devices = (state.arguments.shared.instances)();
    let patience = state.arguments.shared.options.instance_patience;
    let is_connected = |number| {
        let mut found = devices.iter().filter(|device| device.number == number);
        found.any(|device| device.state == relevo_domain::InstanceState::Connected)
    };
    state.disconnected_since.retain(|number, _| !is_connected(*number));
    for sender in &state.checkpoint.senders {
        if !is_connected(sender.number) {
            state.disconnected_since.entry(sender.number).or_insert(now);
        }
    }
    let alive: Vec<_> = {
        let unconnected = |device: &SenderInstance| {
            now.since(state.disconnected_since.get(&device.number).copied().unwrap_or(now))
        };
        let is_alive =
            |device: &&SenderInstance| senders::is_available(device, unconnected(device), patience);
        devices.iter().filter(is_alive).map(|device| device.number).collect()
    };
    let is_alive = |device: &SenderInstance| alive.contains(&device.number);
    let mut senders = state.checkpoint.senders.clone();
    let pool = senders::sender_pool(&state.record.senders, &mut senders, &devices, is_alive);
    if senders != state.checkpoint.senders {
        let next = Checkpoint { senders, ..state.checkpoint.clone() };
        state.commit(next).await?;
    }
    if !pool.is_empty() {
        let dead = |id: &MessageId| !alive.contains(&id.instance());
        let stranded: Vec<_> = state.open_messages().into_iter().filter(dead).collect();
        state.withdraw(stranded).await?;
    }
    Ok(pool)
}

/// Fills the window of open rows. Tells whether rows are left to be taken.
async fn fill_window(
    state: &mut State,
    pool: &[SenderInstance],
    closes: Option<Timestamp>,
) -> Result<bool, Error> {
    // A job that may run out of rows before it has looked a few times more gets twice as far ahead; any other slowly, so
    // that it never comes with thousands at once.
    let ended = std::mem::take(&mut state.closed_since_fill);
    let more =
        if state.open_rows.len() < LOOKAHEAD_POLLS * ended { 2 * ended } else { ended + ended / 8 + 1 };
    let grown = state.open_rows.len() + more;
    let window = usize::try_from(state.arguments.shared.options.window).unwrap_or(usize::MAX);
    let most = grown.max(INITIAL_WINDOW).min(window);
    loop {
        let room = most.saturating_sub(state.open_rows.len());
        if room == 0 {
            return Ok(true);
        }
        let (standing, now) = (state.checkpoint.clone(), state.now());
        let suppressed = state.arguments.shared.is_suppressed.clone();
        let limit = u32::try_from(room.min(state.page_size())).unwrap_or(CHUNK_ROWS);
        let taken = state.with_files(move |book| book.next_batch(&standing, limit, now, &suppressed)).await;
        match taken {
            Ok(None) => return Ok(false),
            Ok(Some(batch)) => {
                if !enqueue_batch(state, batch, pool, closes).await? {
                    return Ok(true);
                }
            }
            Err(Error::Source(cause)) => {
                finish_job(state, JobStatus::Failed, Some(cause)).await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        state.publish();
    }
}

/// Gives rows to the queue, under the checkpoint that says so. `false` when the queue has no room for them now.
async fn enqueue_batch(
    state: &mut State,
    batch: Batch,
    pool: &[SenderInstance],
    closes: Option<Timestamp>,
) -> Result<bool, Error> {
    let Batch { outgoing, next } = batch;
    let mut submissions = Vec::with_capacity(outgoing.len());
    let mut open = Vec::with_capacity(outgoing.len());
    for OutgoingRow { row, phone, lane, message } in outgoing {
        let Some(device) = senders::choose(pool, lane) else { return Ok(false) };
        open.push((row, phone));
        submissions.push(Submission {
            instance: device.number,
            message,
            class: Class::Bulk,
            mode: Mode::Async,
            idempotency: None,
            expires_at: closes,
            send_at: None,
            on_ambiguous: device.on_ambiguous.unwrap_or(state.arguments.shared.on_ambiguous),
            repeatable: device.repeatable,
            item: Some(BulkItem { job: state.slot(), row }),
        });
    }
    if submissions.is_empty() {
        state.commit(next).await?;
        return Ok(true);
    }
    let (slot, commit) = (state.slot(), next.clone());
    let queue = state.arguments.shared.queue.clone();
    match queue.enqueue_items(submissions, move |tx| commit.put(tx, slot)).await {
        Ok(ids) => {
            state.checkpoint = next;
            let open = open.into_iter().zip(ids);
            state
                .open_rows
                .extend(open.map(|((row, phone), id)| (row, OpenRow { message: Some(id), phone })));
            Ok(true)
        }
        Err(error @ (queue::Error::Full { .. } | queue::Error::DiskFull)) => {
            state.waits_for = Some(error.to_string());
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

async fn start_job(state: &mut State, now: Timestamp) -> Result<(), Error> {
    let next = Checkpoint {
        status: JobStatus::Processing,
        started_at: Some(state.checkpoint.started_at.unwrap_or(now)),
        updated_at: now,
        ..state.checkpoint.clone()
    };
    announce(state, next, EventKind::JobStarted).await
}

/// Ends a job.
async fn finish_job(state: &mut State, status: JobStatus, error: Option<String>) -> Result<(), Error> {
    let now = state.now();
    let kind = if status == JobStatus::Completed { EventKind::JobCompleted } else { EventKind::JobFailed };
    let next = Checkpoint { status, error, ended_at: Some(now), updated_at: now, ..state.checkpoint.clone() };
    state.with_files(|book| book.sync_index()).await?;
    tracing::info!(job = %state.record.id, %status, "a bulk job has ended");
    announce(state, next, kind).await
}

/// Makes `next` the checkpoint and tells the log of the job's first instance, in one commit.
async fn announce(state: &mut State, next: Checkpoint, kind: EventKind) -> Result<(), Error> {
    let counts = next.counts;
    let data = json!({
        "job_id": state.record.id,
        "status": next.status.as_str(),
        "results": {
            "sent": counts.sent, "failed": counts.failed, "ambiguous": counts.ambiguous,
            "skipped": counts.skipped, "cancelled": counts.cancelled, "total": state.record.total,
        },
        "error": next.error,
    });
    let event = Event { kind, at: next.updated_at, data };
    let (slot, commit) = (state.slot(), next.clone());
    let first = next.senders.first().map(|sender| sender.number);
    let write = move |tx: &mut store::Tx| {
        if let Some(instance) = first {
            events::append(tx, instance, &event)?;
        }
        commit.put(tx, slot)
    };
    state.arguments.shared.store.write(write).await?;
    state.checkpoint = next;
    Ok(())
}
