//! Notifications about new work: for instances, and for bulk jobs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use relevo_domain::{Class, InstanceNumber, MessageId};

/// Notifies instances that there may be work, and bulk jobs that there may be outcomes. A notification carries no data,
/// and several may be merged into one; a receiver that finds nothing has made one useless read.
#[derive(Debug, Clone, Default)]
pub struct WorkNotifier {
    instances: Arc<Mutex<WorkSenders>>,
    /// Counts notifications to bulk jobs.
    outcomes: watch::Sender<u64>,
}

type WorkSenders = HashMap<(InstanceNumber, Class), watch::Sender<()>>;

impl WorkNotifier {
    /// Resolves whenever there may be new work of this class for the instance.
    pub fn subscribe(&self, instance: InstanceNumber, class: Class) -> watch::Receiver<()> {
        let mut senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        senders.entry((instance, class)).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Notifies one instance of work of this class.
    pub fn notify(&self, instance: InstanceNumber, class: Class) {
        let senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = senders.get(&(instance, class)) {
            sender.send_replace(());
        }
    }

    /// Notifies all instances of work of every class.
    pub(super) fn notify_all(&self) {
        let senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in senders.values() {
            sender.send_replace(());
        }
    }

    /// A change of this message is durable: the message, or the next one of its lane, may be work.
    pub(super) fn notify_instance_of(&self, id: MessageId) {
        self.notify(id.instance(), id.class());
    }

    /// A counter that grows whenever a bulk job may have a new outcome.
    pub fn subscribe_outcomes(&self) -> watch::Receiver<u64> {
        self.outcomes.subscribe()
    }

    /// A change of this message is durable: if it is a row of a bulk job, the job may have a new outcome.
    pub(super) fn notify_job_of(&self, id: MessageId) {
        if id.item().is_some() {
            self.notify_jobs();
        }
    }

    /// Notifies all bulk jobs.
    pub(super) fn notify_jobs(&self) {
        self.outcomes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
