//! The public interface of the queue. Changes go through the actor and are durable when a method returns; reads go to the
//! store directly.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::supervisor::{ActorSlot, ActorUnavailable};
use relevo_domain::{
    Class, Failure, InstanceNumber, MessageId, MessageRef, Overdue, ProviderMessageId, RetryDecision,
    Timestamp,
};
use relevo_store::{self as store, BlobSet, Priority, Store, Tx};

use super::actor::Msg;
use super::notifier::WorkNotifier;
use super::{
    Acceptance, DeadLetter, DeadLetterFilter, Depth, Error, IdempotencyKey, ItemOutcome, Lease, LeaseBatch,
    MessageView, QueueStats, ReceiptReport, ReceiptResult, ScheduleCursor, SendOutcome, Submission,
    bulk_rows, dead_letters, item_outcomes, keys, ledger, schedule, stats,
};

/// The interface of the queue. Cheap to clone.
///
/// # Errors
/// Every asynchronous method returns [`Error::Unavailable`] when the actor is gone and not replaced in time, or ended
/// before it replied; then the change may or may not be durable. A failed read or commit is [`Error::Store`].
#[derive(Clone)]
pub struct Handle {
    slot: ActorSlot<Msg>,
    store: Store,
    notifier: WorkNotifier,
    bulk_row_lookup: Arc<OnceLock<BulkRowLookup>>,
}

/// Finds the message of a bulk job's row by WhatsApp's id, after the job has noted the row's outcome. Reads from disk.
pub type BulkRowLookup = Arc<dyn Fn(InstanceNumber, &ProviderMessageId) -> Option<MessageId> + Send + Sync>;

impl Handle {
    /// A handle to the actor in `slot`.
    pub fn new(slot: ActorSlot<Msg>, store: Store, notifier: WorkNotifier) -> Self {
        Self { slot, store, notifier, bulk_row_lookup: Arc::default() }
    }

    /// Enqueues a message, which is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::DiskFull`], or [`Error::KeyReused`] when the idempotency key belongs to a different
    /// request.
    pub async fn enqueue(&self, submission: Submission) -> Result<Acceptance, Error> {
        self.slot.call(|reply| Msg::Enqueue(Box::new(submission), reply)).await?
    }

    /// Enqueues a message and waits until its only attempt is over, at most `wait`.
    ///
    /// If the wait ends before the attempt began, the message is withdrawn ([`SendOutcome::Cancelled`]); if it ends
    /// later, the attempt continues ([`SendOutcome::Unknown`]). If the caller or the process is gone by then, the message
    /// expires at the end of the wait. A repeat with the same idempotency key waits for the outcome of the first message
    /// and withdraws nothing.
    ///
    /// # Errors
    /// Those of [`enqueue`](Self::enqueue).
    pub async fn send_now(
        &self,
        submission: Submission,
        wait: Duration,
    ) -> Result<(MessageId, SendOutcome), Error> {
        let (outcome, ended) = ractor::concurrency::oneshot();
        let request = |reply| Msg::SendNow(Box::new(submission), wait, reply, outcome.into());
        let accepted = self.slot.call(request).await??;
        let id = accepted.id();
        // The actor may have ended with the reply; the ledger has the outcome.
        if let Ok(Ok(outcome)) = tokio::time::timeout(wait, ended).await {
            return Ok((id, outcome));
        }
        if matches!(accepted, Acceptance::New(_)) && self.withdraw(id).await? {
            return Ok((id, SendOutcome::Cancelled));
        }
        Ok((id, ledger::outcome(&self.store, id)?.unwrap_or(SendOutcome::Unknown)))
    }

    /// The message that an earlier request with this idempotency key created; it is durable. A key that was never used
    /// costs one read.
    ///
    /// # Errors
    /// [`Error::KeyReused`] when the key belongs to a different request; [`Error::Store`]; see [`Handle`].
    pub async fn find_repeated(
        &self,
        instance: InstanceNumber,
        key: &IdempotencyKey,
    ) -> Result<Option<MessageId>, Error> {
        if !self.store.contains(&keys::idempotency(instance, &key.key))? {
            return Ok(None);
        }
        self.slot.call(|reply| Msg::FindRepeated(instance, key.clone(), reply)).await?
    }

    /// Waits until the only or last attempt of an accepted message is over, at most `wait`. Withdraws nothing.
    ///
    /// # Errors
    /// [`Error::Store`]; see [`Handle`].
    pub async fn await_outcome(&self, id: MessageId, wait: Duration) -> Result<SendOutcome, Error> {
        let (outcome, ended) = ractor::concurrency::oneshot();
        self.slot.cast(Msg::AddWaiter(Acceptance::Duplicate(id), outcome.into()))?;
        if let Ok(Ok(outcome)) = tokio::time::timeout(wait, ended).await {
            return Ok(outcome);
        }
        Ok(ledger::outcome(&self.store, id)?.unwrap_or(SendOutcome::Unknown))
    }

    /// Leases up to `max` messages that the instance may attempt now, at most `max_bulk` of them of the bulk class. The
    /// leases are durable when this returns.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn lease(
        &self,
        instance: InstanceNumber,
        max: usize,
        max_bulk: usize,
    ) -> Result<LeaseBatch, Error> {
        self.lease_with_priority(Priority::Normal, instance, max, max_bulk).await
    }

    /// [`lease`](Self::lease) with a commit priority.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn lease_with_priority(
        &self,
        priority: Priority,
        instance: InstanceNumber,
        max: usize,
        max_bulk: usize,
    ) -> Result<LeaseBatch, Error> {
        self.slot.call(|reply| Msg::Lease { instance, max, max_bulk, priority, reply }).await?
    }

    /// Waits for the next transactional message of the instance, which the commit that accepts it also leases. Messages
    /// that are already in the queue are not found. The batch is empty when another call for the same instance, or
    /// [`cancel_lease_next`](Self::cancel_lease_next), replaces this one.
    ///
    /// The request is sent by the call, not by the first poll, so that it precedes all later requests to the queue.
    pub fn lease_next(
        &self,
        instance: InstanceNumber,
    ) -> impl Future<Output = Result<LeaseBatch, Error>> + use<> {
        let (reply, replied) = ractor::concurrency::oneshot();
        let sent = self.slot.cast(Msg::LeaseNext(instance, reply.into()));
        async move {
            sent?;
            replied.await.map_err(|_| ActorUnavailable)?
        }
    }

    /// Ends a [`lease_next`](Self::lease_next) with an empty batch.
    ///
    /// # Errors
    /// [`ActorUnavailable`] when the actor is gone.
    pub fn cancel_lease_next(&self, instance: InstanceNumber) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::CancelLeaseNext(instance))
    }

    /// Records that WhatsApp accepted the message.
    ///
    /// # Errors
    /// [`ActorUnavailable`] when the actor is gone; then the lease expires.
    pub fn record_sent(&self, lease: Lease, provider_id: ProviderMessageId) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::Sent(Box::new(lease), provider_id))
    }

    /// Returns a lease whose attempt did not begin; the message may be leased again at `until`.
    ///
    /// # Errors
    /// [`ActorUnavailable`] when the actor is gone; then the lease expires.
    pub fn postpone(&self, lease: Lease, until: Timestamp) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::Postpone(Box::new(lease), until))
    }

    /// Applies the decision about a failed attempt. Only `retry` calls this.
    ///
    /// # Errors
    /// [`ActorUnavailable`] when the actor is gone; then the lease expires.
    pub fn apply_decision(
        &self,
        lease: Lease,
        decision: RetryDecision,
        failure: Failure,
    ) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::ApplyDecision(Box::new(lease), decision, failure))
    }

    /// Records receipts, in order, in one commit. Receipts for rows of bulk jobs that do not contain the node's id are
    /// recorded in a second commit.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn record_receipts(&self, reports: Vec<ReceiptReport>) -> Result<Vec<ReceiptResult>, Error> {
        // Receipts without our id, each with its index: if the queue does not know them, they may be for bulk rows.
        let mut unresolved: Vec<_> = reports
            .iter()
            .enumerate()
            .filter(|(_, report)| report.id.is_none())
            .map(|(index, report)| (index, report.clone()))
            .collect();
        let mut results = self.slot.call(|reply| Msg::RecordReceipts(reports, reply)).await??;
        unresolved.retain(|(index, _)| results.get(*index) == Some(&ReceiptResult::Unknown));
        if unresolved.is_empty() {
            return Ok(results);
        }
        let lookup = self.bulk_row_lookup.get().cloned();
        let resolve = move |store: &Store| resolve_bulk_rows(store, lookup.as_ref(), unresolved);
        let (indices, rows): (Vec<_>, Vec<_>) = self.read_blocking(resolve).await?.into_iter().unzip();
        if rows.is_empty() {
            return Ok(results);
        }
        let row_results = self.slot.call(|reply| Msg::RecordReceipts(rows, reply)).await??;
        for (index, row_result) in indices.into_iter().zip(row_results) {
            if let Some(result) = results.get_mut(index) {
                *result = row_result;
            }
        }
        Ok(results)
    }

    /// Sets the lookup for bulk rows whose outcomes are noted. It is set once, after the queue has started, because the
    /// bulk jobs start later.
    pub fn set_bulk_row_lookup(&self, lookup: BulkRowLookup) {
        // A second lookup would find the same rows, so it is ignored.
        let _ = self.bulk_row_lookup.set(lookup);
    }

    /// Withdraws a message if no attempt has begun. Returns whether it was withdrawn.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn withdraw(&self, id: MessageId) -> Result<bool, Error> {
        self.slot.call(|reply| Msg::Withdraw(id, reply)).await?
    }

    /// Enqueues rows of bulk jobs, all or none, and runs `with` in the same commit. Returns their ids in the same order.
    /// A call should contain at most 500 rows, so that other messages do not wait behind them. Idempotency keys of rows
    /// are not checked.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::DiskFull`]; then no row is enqueued and `with` does not run.
    pub async fn enqueue_items(
        &self,
        submissions: Vec<Submission>,
        with: impl FnOnce(&mut Tx) -> Result<(), store::Error> + Send + 'static,
    ) -> Result<Vec<MessageId>, Error> {
        self.slot.call(|reply| Msg::EnqueueItems(submissions, Box::new(with), reply)).await?
    }

    /// Outcomes of a bulk job that it has not noted, in row order, up to `limit`. A short read. The result may be a few
    /// milliseconds ahead of the disk; a later [`note_outcomes`](Self::note_outcomes) is committed after it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn outcomes(&self, job: u16, limit: usize) -> Result<Vec<ItemOutcome>, Error> {
        Ok(item_outcomes::outcomes(&self.store, job, limit)?)
    }

    /// Deletes noted outcomes that have not changed since, and runs `with` in the same commit. Outcomes that have changed
    /// are returned by [`outcomes`](Self::outcomes) again.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn note_outcomes(
        &self,
        noted: Vec<ItemOutcome>,
        with: impl FnOnce(&mut Tx) -> Result<(), store::Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.slot.call(|reply| Msg::NoteOutcomes(noted, Box::new(with), reply)).await?
    }

    /// A counter that grows whenever a bulk job may have a new outcome.
    pub fn subscribe_outcomes(&self) -> watch::Receiver<u64> {
        self.notifier.subscribe_outcomes()
    }

    /// Withdraws the rows whose attempt has not begun, in one commit, and returns their ids. Their outcome is `cancelled`.
    /// A call should contain at most 500 ids.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn withdraw_items(&self, ids: Vec<MessageId>) -> Result<Vec<MessageId>, Error> {
        self.slot.call(|reply| Msg::WithdrawItems(ids, reply)).await?
    }

    /// Messages of a bulk job that an instance has not settled, oldest first, up to `limit`, after `after`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn open_items(
        &self,
        instance: InstanceNumber,
        job: u16,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<MessageId>, Error> {
        self.read_blocking(move |store| bulk_rows::open_messages(store, instance, job, after, limit)).await
    }

    /// Deletes a bulk job's slot and its remaining outcomes. Later outcomes of its messages are not recorded. The next row
    /// that is enqueued for the slot begins a new job.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn delete_job(&self, job: u16) -> Result<(), Error> {
        while self.slot.call(|reply| Msg::DeleteJob(job, reply)).await?? {}
        Ok(())
    }

    /// Leases whose outcome will not be reported, and why.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn find_overdue(&self) -> Result<Vec<(Lease, Overdue)>, Error> {
        self.slot.call(Msg::FindOverdue).await?
    }

    /// Deletes a page of expired records. Returns where the next page begins.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn run_retention(&self, from: Option<MessageId>) -> Result<Option<MessageId>, Error> {
        self.slot.call(|reply| Msg::RunRetention(from, reply)).await?
    }

    /// Deletes all records of a deleted instance.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn purge(&self, instance: InstanceNumber) -> Result<(), Error> {
        while self.slot.call(|reply| Msg::Purge(instance, reply)).await?? {}
        Ok(())
    }

    /// Resolves when all earlier requests are durable, or when `deadline` has passed.
    pub async fn drain(&self, deadline: Duration) {
        // A no-op request: when it completes, all earlier requests have been committed.
        let no_op = self.withdraw_items(Vec::new());
        if !matches!(tokio::time::timeout(deadline, no_op).await, Ok(Ok(_))) {
            tracing::warn!(
                ?deadline,
                "queue not drained in time; some attempts may not be settled and are recovered at the next start"
            );
        }
    }

    /// Resolves whenever there may be new work of this class for the instance.
    pub fn subscribe(&self, instance: InstanceNumber, class: Class) -> watch::Receiver<()> {
        self.notifier.subscribe(instance, class)
    }

    /// The status and history of a message.
    ///
    /// # Errors
    /// [`Error::UnknownMessage`] or [`Error::Store`].
    pub fn find(&self, instance: InstanceNumber, message: &MessageRef) -> Result<MessageView, Error> {
        ledger::find(&self.store, instance, message)?.ok_or(Error::UnknownMessage)
    }

    /// Number of unsettled messages of an instance.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn depth(&self, instance: InstanceNumber) -> Result<Depth, Error> {
        Ok(stats::depth(&self.store, instance)?)
    }

    /// When the oldest unsettled message of an instance was accepted.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn oldest_accepted_at(&self, instance: InstanceNumber) -> Result<Option<Timestamp>, Error> {
        Ok(stats::oldest(&self.store, instance)?)
    }

    /// Statistics of an instance's queue.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn stats(&self, instance: InstanceNumber) -> Result<QueueStats, Error> {
        self.read_blocking(move |store| stats::count(store, instance)).await
    }

    /// Scheduled messages in order of time, up to `limit`, after `after`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn scheduled(
        &self,
        instance: InstanceNumber,
        after: Option<ScheduleCursor>,
        limit: usize,
    ) -> Result<Vec<MessageView>, Error> {
        self.read_blocking(move |store| schedule::page(store, instance, after, limit)).await
    }

    /// Changes the time of a scheduled message. Returns `false` when the message is not scheduled.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn reschedule(&self, id: MessageId, at: Timestamp) -> Result<bool, Error> {
        self.slot.call(|reply| Msg::Reschedule(id, at, reply)).await?
    }

    /// Dead letters in the order of acceptance, up to `limit`, after `after`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn dead_letters(
        &self,
        instance: InstanceNumber,
        filter: DeadLetterFilter,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        self.read_blocking(move |store| dead_letters::page(store, instance, &filter, after, limit)).await
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`Error::UnknownMessage`] or [`Error::Store`].
    pub fn dead_letter(&self, id: MessageId) -> Result<DeadLetter, Error> {
        dead_letters::dead_letter(&self.store, id)?.ok_or(Error::UnknownMessage)
    }

    /// Appends dead letters to their lanes again. Returns how many there were.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn redrive(&self, ids: Vec<MessageId>) -> Result<usize, Error> {
        self.slot.call(|reply| Msg::Redrive(ids, reply)).await?
    }

    /// Deletes dead letters. Returns how many there were.
    ///
    /// # Errors
    /// See [`Handle`].
    pub async fn discard(&self, ids: Vec<MessageId>) -> Result<usize, Error> {
        self.slot.call(|reply| Msg::Discard(ids, reply)).await?
    }

    /// The blobs that unsettled messages and dead letters of all instances reference. Reads all of these.
    ///
    /// # Errors
    /// [`Error::Store`], also when a record cannot be decoded.
    pub async fn referenced_blobs(&self) -> Result<BlobSet, Error> {
        self.read_blocking(super::blobs::referenced).await
    }

    /// Runs a long read on a blocking thread.
    async fn read_blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        let reading = tokio::task::spawn_blocking(move || read(&store));
        Ok(reading.await.unwrap_or(Err(store::Error::Panicked))?)
    }
}

/// Finds the rows of bulk jobs that receipts are for, by WhatsApp's id. Returns the receipts with a known row, each with
/// its index and the node's id.
fn resolve_bulk_rows(
    store: &Store,
    lookup: Option<&BulkRowLookup>,
    mut unresolved: Vec<(usize, ReceiptReport)>,
) -> Result<Vec<(usize, ReceiptReport)>, store::Error> {
    let wanted = unresolved.iter().map(|(_, report)| report.provider_message_key()).collect();
    // Outcomes first, jobs second: a job has stored an outcome before it is deleted here.
    let open = item_outcomes::find_by_provider_id(store, &wanted)?;
    for (_, report) in &mut unresolved {
        let key = report.provider_message_key();
        report.id = match (open.get(&key), lookup) {
            (Some(id), _) => Some(*id),
            (None, Some(lookup)) => lookup(key.0, &key.1),
            (None, None) => None,
        };
    }
    unresolved.retain(|(_, report)| report.id.is_some());
    Ok(unresolved)
}
