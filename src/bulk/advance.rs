//! The way of a job from its source into the queue.

use std::time::Duration;

use serde_json::json;

use crate::events::{self, Event};
use crate::queue::{self, Submission};
use relevo_domain::{BulkItem, Class, MessageId, Mode, Timestamp};
use relevo_store as store;

use super::Error;
use super::actor::{CALM_PAGE, State};
use super::book::{Batch, CHUNK, Open, Outgoing};
use super::devices::{self, Device};
use super::job::Status;
use super::storage::Standing;
use super::window::Opening;

/// How often a running job looks which instances live, and whether a full queue has room again.
const TICK: Duration = Duration::from_secs(2);

/// For so many looks, rows should be in the queue: a job that waits for rows is slow.
const LOOKS: usize = 4;

/// Rows in the queue that a job begins with.
const FIRST: usize = CALM_PAGE;

/// A moment that is further away is looked at again before, because the clock may be set.
const LONGEST: Duration = Duration::from_secs(600);

/// Takes a job as far as it can go now. Tells after how long there is more to do, if nothing happens before.
pub(super) async fn advance(state: &mut State) -> Result<Option<Duration>, Error> {
    let now = state.now();
    state.waits_for = None;
    if let Some(at) = state.record.send_at.filter(|at| *at > now) {
        return Ok(Some(at.since(now).min(LONGEST)));
    }
    let closes = match state.record.window.as_ref().map(|window| window.at(now)) {
        Some(Opening::Closed { opens }) => {
            state.recall(state.open_messages()).await?;
            state.waits_for = Some(format!("the sending window opens at {opens}"));
            return Ok(Some(opens.since(now).min(LONGEST)));
        }
        Some(Opening::Open { closes }) => Some(closes),
        None => None,
    };
    if state.standing.status == Status::Pending {
        begin(state, now).await?;
    }
    let pool = pool(state, now).await?;
    if pool.is_empty() && !is_read(state) {
        state.waits_for = Some("none of the job's instances is connected".to_owned());
        return Ok(Some(TICK));
    }
    let more = fill(state, &pool, closes).await?;
    if !more && state.open.is_empty() && state.standing.returned.is_empty() {
        if !state.standing.status.is_finished() {
            finish(state, Status::Completed, None).await?;
        }
        return Ok(None);
    }
    let until_close = closes.map(|closes| closes.since(state.now()).max(Duration::from_millis(1)));
    Ok(Some(until_close.map_or(TICK, |left| left.min(TICK))))
}

/// Whether nothing is left to be handed over.
fn is_read(state: &State) -> bool {
    let standing = &state.standing;
    standing.returned.is_empty() && standing.retry.is_none() && standing.cursor.row >= state.record.total
}

/// Who may send now. What those who may not had not begun is taken back, if there is somebody to take it over.
async fn pool(state: &mut State, now: Timestamp) -> Result<Vec<Device>, Error> {
    let devices = (state.arguments.shared.devices)();
    let patience = state.arguments.shared.options.instance_patience;
    let is_connected = |number| {
        let mut found = devices.iter().filter(|device| device.number == number);
        found.any(|device| device.state == relevo_domain::InstanceState::Connected)
    };
    state.absent.retain(|number, _| !is_connected(*number));
    for sender in &state.standing.senders {
        if !is_connected(sender.number) {
            state.absent.entry(sender.number).or_insert(now);
        }
    }
    let alive: Vec<_> = {
        let unconnected =
            |device: &Device| now.since(state.absent.get(&device.number).copied().unwrap_or(now));
        let is_alive = |device: &&Device| devices::is_alive(device, unconnected(device), patience);
        devices.iter().filter(is_alive).map(|device| device.number).collect()
    };
    let is_alive = |device: &Device| alive.contains(&device.number);
    let mut senders = state.standing.senders.clone();
    let pool = devices::pool(&state.record.senders, &mut senders, &devices, is_alive);
    if senders != state.standing.senders {
        let next = Standing { senders, ..state.standing.clone() };
        state.commit(next).await?;
    }
    if !pool.is_empty() {
        let dead = |id: &MessageId| !alive.contains(&id.instance());
        let stranded: Vec<_> = state.open_messages().into_iter().filter(dead).collect();
        state.recall(stranded).await?;
    }
    Ok(pool)
}

/// Fills the window of open rows. Tells whether rows are left to be taken.
async fn fill(state: &mut State, pool: &[Device], closes: Option<Timestamp>) -> Result<bool, Error> {
    // A job that may run out of rows before it has looked a few times more gets twice as far ahead; any other slowly, so
    // that it never comes with thousands at once.
    let ended = std::mem::take(&mut state.ended);
    let more = if state.open.len() < LOOKS * ended { 2 * ended } else { ended + ended / 8 + 1 };
    let grown = state.open.len() + more;
    let window = usize::try_from(state.arguments.shared.options.window).unwrap_or(usize::MAX);
    let most = grown.max(FIRST).min(window);
    loop {
        let room = most.saturating_sub(state.open.len());
        if room == 0 {
            return Ok(true);
        }
        let (standing, now) = (state.standing.clone(), state.now());
        let suppressed = state.arguments.shared.suppressed.clone();
        let limit = u32::try_from(room.min(state.page())).unwrap_or(CHUNK);
        let taken = state.with_book(move |book| book.take(&standing, limit, now, &suppressed)).await;
        match taken {
            Ok(None) => return Ok(false),
            Ok(Some(batch)) => {
                if !hand_over(state, batch, pool, closes).await? {
                    return Ok(true);
                }
            }
            Err(Error::Source(cause)) => {
                finish(state, Status::Failed, Some(cause)).await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        state.publish();
    }
}

/// Gives rows to the queue, under the checkpoint that says so. `false` when the queue has no room for them now.
async fn hand_over(
    state: &mut State,
    batch: Batch,
    pool: &[Device],
    closes: Option<Timestamp>,
) -> Result<bool, Error> {
    let Batch { outgoing, next } = batch;
    let mut submissions = Vec::with_capacity(outgoing.len());
    let mut open = Vec::with_capacity(outgoing.len());
    for Outgoing { row, phone, lane, message } in outgoing {
        let Some(device) = devices::choose(pool, lane) else { return Ok(false) };
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
            state.standing = next;
            let open = open.into_iter().zip(ids);
            state.open.extend(open.map(|((row, phone), id)| (row, Open { message: Some(id), phone })));
            Ok(true)
        }
        Err(error @ (queue::Error::Full { .. } | queue::Error::DiskFull)) => {
            state.waits_for = Some(error.to_string());
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

async fn begin(state: &mut State, now: Timestamp) -> Result<(), Error> {
    let next = Standing {
        status: Status::Processing,
        started_at: Some(state.standing.started_at.unwrap_or(now)),
        updated_at: now,
        ..state.standing.clone()
    };
    announce(state, next, "job_started").await
}

/// Ends a job.
async fn finish(state: &mut State, status: Status, error: Option<String>) -> Result<(), Error> {
    let now = state.now();
    let kind = if status == Status::Completed { "job_completed" } else { "job_failed" };
    let next = Standing { status, error, ended_at: Some(now), updated_at: now, ..state.standing.clone() };
    state.with_book(|book| book.finish()).await?;
    tracing::info!(job = %state.record.id, %status, "a bulk job has ended");
    announce(state, next, kind).await
}

/// Makes `next` the checkpoint and tells the log of the job's first instance, in one commit.
async fn announce(state: &mut State, next: Standing, kind: &'static str) -> Result<(), Error> {
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
    let event = Event { kind: kind.to_owned(), at: next.updated_at, data };
    let (slot, commit) = (state.slot(), next.clone());
    let first = next.senders.first().map(|sender| sender.number);
    let write = move |tx: &mut store::Tx| {
        if let Some(instance) = first {
            events::append(tx, instance, &event)?;
        }
        commit.put(tx, slot)
    };
    state.arguments.shared.store.write(write).await?;
    state.standing = next;
    Ok(())
}
