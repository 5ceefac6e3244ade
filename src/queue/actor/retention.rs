//! Retention, and the deletion of an instance's records.

use crate::queue::retention::{self, RetentionPage};
use crate::queue::{Error, due_times};
use relevo_domain::{InstanceNumber, MessageId};
use relevo_store::{Error as StoreError, Tx};

use super::{QueueReply, State};

impl State {
    pub(super) async fn run_retention(&self, from: Option<MessageId>, reply: QueueReply<Option<MessageId>>) {
        let (now, options) = (self.now(), &self.arguments.options);
        if !self.clock_steps.may_delete(self.reading()) {
            let record = move |tx: &mut Tx| due_times::record_time(tx, now).map(|()| None);
            return self.change(reply, record).await;
        }
        let page = RetentionPage {
            now,
            ledger_before: now - options.ledger_retention,
            events_before: now - options.event_retention,
            event_log_size: options.event_log_size,
            from,
        };
        let work = move |tx: &mut Tx| {
            if page.from.is_none() {
                due_times::record_time(tx, now)?;
            }
            retention::delete_page(tx, &page)
        };
        self.change(reply, work).await;
    }

    pub(super) async fn purge(&self, instance: InstanceNumber, reply: QueueReply<bool>) {
        let (now, notifier) = (self.now(), self.arguments.notifier.clone());
        let done = move |more: Result<bool, StoreError>| {
            // Rows of bulk jobs may have got outcomes.
            notifier.notify_jobs();
            let _ = reply.send(more.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| retention::purge(tx, instance, now), done).await;
    }
}
