use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::supervisor::{ActorSlot, ActorUnavailable};
use relevo_domain::{
    Class, Failure, InstanceNumber, MessageId, MessageRef, ProviderMessageId, RetryDecision, Timestamp,
};
use relevo_store::{self as store, BlobSet, Priority, Store, Tx};

use super::actor::Msg;
use super::notifier::WorkNotifier;
use super::{
    Acceptance, DeadLetter, DeadLetterFilter, Depth, Error, ItemOutcome, Lease, LeaseBatch, MessageView,
    QueueStats, ReceiptReport, ReceiptResult, ScheduleCursor, SendOutcome, Submission, bulk_rows,
    dead_letters, ledger, schedule, stats,
};

/// The way into the queue. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    slot: ActorSlot<Msg>,
    store: Store,
    notifier: WorkNotifier,
    bulk_row_lookup: Arc<OnceLock<BulkRowLookup>>,
}

/// Finds the message of a bulk job's row by the id that WhatsApp gave it, once the job has noted how the row ended.
/// Reads the disk.
pub type BulkRowLookup = Arc<dyn Fn(InstanceNumber, &ProviderMessageId) -> Option<MessageId> + Send + Sync>;

impl Handle {
    pub fn new(slot: ActorSlot<Msg>, store: Store, notifier: WorkNotifier) -> Self {
        Self { slot, store, notifier, bulk_row_lookup: Arc::default() }
    }

    /// Takes a message in; when this answers `Ok`, it is durable.
    pub async fn enqueue(&self, submission: Submission) -> Result<Acceptance, Error> {
        self.slot.call(|reply| Msg::Enqueue(Box::new(submission), reply)).await?
    }

    /// Takes a message in and waits until its one attempt is over, at most `wait`.
    ///
    /// A wait that ends before the attempt began takes the message back ([`Outcome::Cancelled`]); one that ends
    /// later leaves it to its fate ([`Outcome::Unknown`]). Should nobody be left to take it back, because the caller
    /// went away or the process died, the message expires with the wait. A repeat under the same idempotency key
    /// waits for the first one's outcome and takes nothing back.
    pub async fn send_now(
        &self,
        submission: Submission,
        wait: Duration,
    ) -> Result<(MessageId, SendOutcome), Error> {
        let (outcome, ended) = ractor::concurrency::oneshot();
        let question = |reply| Msg::SendNow(Box::new(submission), wait, reply, outcome.into());
        let accepted = self.slot.call(question).await??;
        let id = accepted.id();
        // The queue's actor may have died with the answer; what it wrote down has not.
        if let Ok(Ok(outcome)) = tokio::time::timeout(wait, ended).await {
            return Ok((id, outcome));
        }
        if matches!(accepted, Acceptance::New(_)) && self.withdraw(id).await? {
            return Ok((id, SendOutcome::Cancelled));
        }
        Ok((id, ledger::outcome(&self.store, id)?.unwrap_or(SendOutcome::Unknown)))
    }

    /// Up to `max` messages that the instance may attempt now, each durably leased; of them up to `max_bulk` of the
    /// bulk class.
    pub async fn lease(
        &self,
        instance: InstanceNumber,
        max: usize,
        max_bulk: usize,
    ) -> Result<LeaseBatch, Error> {
        self.lease_with_priority(Priority::Normal, instance, max, max_bulk).await
    }

    /// [`lease`](Self::lease), sooner or later.
    pub async fn lease_with_priority(
        &self,
        haste: Priority,
        instance: InstanceNumber,
        max: usize,
        max_bulk: usize,
    ) -> Result<LeaseBatch, Error> {
        self.slot.call(|reply| Msg::Lease { instance, max, max_bulk, haste, reply }).await?
    }

    /// The instance's next transactional message, leased by the commit that takes it in; as long as that takes. Nothing
    /// when another asks for the same instance, or [`lease_no_next`](Self::lease_no_next) is called. What was there
    /// before is not found. It is asked for by the call, before anybody polls, so that what is told the queue later comes
    /// later.
    pub fn lease_next(
        &self,
        instance: InstanceNumber,
    ) -> impl Future<Output = Result<LeaseBatch, Error>> + use<> {
        let (answer, answered) = ractor::concurrency::oneshot();
        let asked = self.slot.cast(Msg::LeaseNext(instance, answer.into()));
        async move {
            asked?;
            answered.await.map_err(|_| ActorUnavailable)?
        }
    }

    /// Ends a [`lease_next`](Self::lease_next).
    pub fn cancel_lease_next(&self, instance: InstanceNumber) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::CancelLeaseNext(instance))
    }

    /// WhatsApp took the message.
    pub fn record_sent(&self, lease: Lease, provider_id: ProviderMessageId) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::Sent(Box::new(lease), provider_id))
    }

    /// The attempt did not begin; the message may go at `until`.
    pub fn postpone(&self, lease: Lease, until: Timestamp) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::Postpone(Box::new(lease), until))
    }

    /// Carries out what was decided about a failed attempt. For `retry` alone.
    pub fn apply_decision(
        &self,
        lease: Lease,
        verdict: RetryDecision,
        failure: Failure,
    ) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::ApplyDecision(Box::new(lease), verdict, failure))
    }

    /// Records what WhatsApp reports, in order, in one commit; in a second one what concerns rows of bulk jobs and
    /// does not carry our id.
    pub async fn record_receipts(&self, reports: Vec<ReceiptReport>) -> Result<Vec<ReceiptResult>, Error> {
        let nameless = |(_, report): &(usize, &ReceiptReport)| report.id.is_none();
        let nameless = reports.iter().enumerate().filter(nameless);
        let mut left: Vec<_> = nameless.map(|(at, report)| (at, report.clone())).collect();
        let mut recorded = self.slot.call(|reply| Msg::RecordReceipts(reports, reply)).await??;
        left.retain(|(at, _)| recorded.get(*at) == Some(&ReceiptResult::Unknown));
        if left.is_empty() {
            return Ok(recorded);
        }
        let noted = self.bulk_row_lookup.get().cloned();
        let find = move |store: &Store| {
            let wanted = left.iter().map(|(_, report)| report.provider_message_key());
            // In this order: what is noted meanwhile is with its job before it goes from here.
            let open = bulk_rows::find_by_provider_id(store, &wanted.collect())?;
            for (_, report) in &mut left {
                let name = report.provider_message_key();
                let in_job = || noted.as_ref().and_then(|noted| noted(name.0, &name.1));
                report.id = open.get(&name).copied().or_else(in_job);
            }
            left.retain(|(_, report)| report.id.is_some());
            Ok(left)
        };
        let (places, rows): (Vec<_>, Vec<_>) = self.read_blocking(find).await?.into_iter().unzip();
        if !rows.is_empty() {
            let again = self.slot.call(|reply| Msg::RecordReceipts(rows, reply)).await??;
            for (at, again) in places.into_iter().zip(again) {
                recorded.get_mut(at).into_iter().for_each(|recorded| *recorded = again);
            }
        }
        Ok(recorded)
    }

    /// Who is asked for rows of bulk jobs by WhatsApp's ids, once their jobs have noted how they ended. Set once,
    /// because the queue is there before the jobs are.
    pub fn set_bulk_row_lookup(&self, noted: BulkRowLookup) {
        // A second one would find the same rows.
        let _ = self.bulk_row_lookup.set(noted);
    }

    /// Takes a message back if no attempt has begun.
    pub async fn withdraw(&self, id: MessageId) -> Result<bool, Error> {
        self.slot.call(|reply| Msg::Withdraw(id, reply)).await?
    }

    /// Takes rows of bulk jobs in, all or none, and runs `with` in the same commit; answers their ids in the same
    /// order. Up to 500 in one call, so that other messages do not wait behind them. Idempotency keys, if rows had
    /// them, would not be looked up.
    pub async fn enqueue_items(
        &self,
        submissions: Vec<Submission>,
        with: impl FnOnce(&mut Tx) -> Result<(), store::Error> + Send + 'static,
    ) -> Result<Vec<MessageId>, Error> {
        self.slot.call(|reply| Msg::EnqueueItems(submissions, Box::new(with), reply)).await?
    }

    /// Outcomes of a bulk job's rows that it has not noted, in the order of its rows, up to `limit`. A short read,
    /// which may be a few milliseconds ahead of the disk; noting them comes after them in the same log.
    pub fn outcomes(&self, job: u16, limit: usize) -> Result<Vec<ItemOutcome>, Error> {
        Ok(bulk_rows::outcomes(&self.store, job, limit)?)
    }

    /// Forgets outcomes that were noted and have not changed since, and runs `with` in the same commit. Those that
    /// did change are told again.
    pub async fn note_outcomes(
        &self,
        noted: Vec<ItemOutcome>,
        with: impl FnOnce(&mut Tx) -> Result<(), store::Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.slot.call(|reply| Msg::NoteOutcomes(noted, Box::new(with), reply)).await?
    }

    /// Grows whenever a bulk job may have another outcome to note.
    pub fn subscribe_outcomes(&self) -> watch::Receiver<u64> {
        self.notifier.subscribe_outcomes()
    }

    /// Takes back those messages that no attempt has begun for, in one commit; tells which. Their outcome is
    /// `cancelled`. Up to 500 in one call.
    pub async fn withdraw_items(&self, ids: Vec<MessageId>) -> Result<Vec<MessageId>, Error> {
        self.slot.call(|reply| Msg::WithdrawItems(ids, reply)).await?
    }

    /// A bulk job's messages that an instance has not settled, oldest first, up to `limit`, after `after`.
    pub async fn open_items(
        &self,
        instance: InstanceNumber,
        job: u16,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<MessageId>, Error> {
        self.read_blocking(move |store| bulk_rows::open_messages(store, instance, job, after, limit)).await
    }

    /// Gives up a bulk job's slot and the outcomes that it did not note. What its messages come to afterwards is
    /// not written down; the next row that is enqueued under the slot begins a new job.
    pub async fn delete_job(&self, job: u16) -> Result<(), Error> {
        while self.slot.call(|reply| Msg::DeleteJob(job, reply)).await?? {}
        Ok(())
    }

    /// Leases that nobody will settle, and (`true`) those whose unknown outcome was held long enough.
    pub async fn find_overdue(&self) -> Result<Vec<(Lease, bool)>, Error> {
        self.slot.call(Msg::FindOverdue).await?
    }

    /// Forgets a page of what was kept long enough; answers where the next page begins.
    pub async fn run_retention(&self, from: Option<MessageId>) -> Result<Option<MessageId>, Error> {
        self.slot.call(|reply| Msg::RunRetention(from, reply)).await?
    }

    /// Forgets everything that a deleted instance left behind.
    pub async fn purge(&self, instance: InstanceNumber) -> Result<(), Error> {
        while self.slot.call(|reply| Msg::Purge(instance, reply)).await?? {}
        Ok(())
    }

    /// Resolves when everything that was told before is durable, or when `deadline` has passed.
    pub async fn drain(&self, deadline: Duration) {
        // Whoever asks stands behind those who told; nothing is taken back.
        let behind_all = self.withdraw_items(Vec::new());
        if !matches!(tokio::time::timeout(deadline, behind_all).await, Ok(Ok(_))) {
            tracing::warn!(
                ?deadline,
                "the ends of some attempts may not be on the disk; they will be looked for"
            );
        }
    }

    /// Resolves whenever there may be new work of this class for the instance.
    pub fn subscribe(&self, instance: InstanceNumber, class: Class) -> watch::Receiver<()> {
        self.notifier.subscribe(instance, class)
    }

    /// Where a message of an instance stands.
    pub fn find(&self, instance: InstanceNumber, message: &MessageRef) -> Result<MessageView, Error> {
        ledger::find(&self.store, instance, message)?.ok_or(Error::UnknownMessage)
    }

    /// What an instance has not settled yet.
    pub fn depth(&self, instance: InstanceNumber) -> Result<Depth, Error> {
        Ok(stats::depth(&self.store, instance)?)
    }

    /// When the oldest message that an instance has not settled was accepted.
    pub fn oldest_accepted_at(&self, instance: InstanceNumber) -> Result<Option<Timestamp>, Error> {
        Ok(stats::oldest(&self.store, instance)?)
    }

    /// What waits in an instance's queue, in detail.
    pub async fn stats(&self, instance: InstanceNumber) -> Result<QueueStats, Error> {
        self.read_blocking(move |store| stats::count(store, instance)).await
    }

    /// Scheduled messages in the order of their moments, up to `limit`, after `after`.
    pub async fn scheduled(
        &self,
        instance: InstanceNumber,
        after: Option<ScheduleCursor>,
        limit: usize,
    ) -> Result<Vec<MessageView>, Error> {
        self.read_blocking(move |store| schedule::page(store, instance, after, limit)).await
    }

    /// Moves a scheduled message to another moment. `false` when it is not, or no longer, scheduled.
    pub async fn reschedule(&self, id: MessageId, at: Timestamp) -> Result<bool, Error> {
        self.slot.call(|reply| Msg::Reschedule(id, at, reply)).await?
    }

    /// Dead letters in the order in which they were accepted, up to `limit`, after `after`.
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
    pub fn dead_letter(&self, id: MessageId) -> Result<DeadLetter, Error> {
        dead_letters::dead_letter(&self.store, id)?.ok_or(Error::UnknownMessage)
    }

    /// Puts dead letters back into their lanes; tells how many of them there were.
    pub async fn redrive(&self, ids: Vec<MessageId>) -> Result<usize, Error> {
        self.slot.call(|reply| Msg::Redrive(ids, reply)).await?
    }

    /// Forgets dead letters; tells how many of them there were.
    pub async fn discard(&self, ids: Vec<MessageId>) -> Result<usize, Error> {
        self.slot.call(|reply| Msg::Discard(ids, reply)).await?
    }

    /// The blobs that messages of any instance need: waiting, scheduled, under way or dead. Reads all of them.
    pub async fn referenced_blobs(&self) -> Result<BlobSet, Error> {
        self.read_blocking(super::blobs::referenced).await
    }

    /// Long reads leave the runtime's threads alone.
    async fn read_blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        let reading = tokio::task::spawn_blocking(move || read(&store));
        Ok(reading.await.unwrap_or(Err(store::Error::Panicked))?)
    }
}
