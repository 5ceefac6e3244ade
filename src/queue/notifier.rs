use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use relevo_domain::{Class, InstanceNumber, MessageId};

/// Tells instances that there may be work. A nudge carries nothing, may be lost, and costs one look.
#[derive(Debug, Clone, Default)]
pub struct WorkNotifier {
    instances: Arc<Mutex<WorkSenders>>,
    /// For bulk jobs: how often there was something to note since the start.
    outcomes: watch::Sender<u64>,
}

type WorkSenders = HashMap<(InstanceNumber, Class), watch::Sender<()>>;

impl WorkNotifier {
    pub fn subscribe(&self, instance: InstanceNumber, class: Class) -> watch::Receiver<()> {
        let mut senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        senders.entry((instance, class)).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    pub fn notify(&self, instance: InstanceNumber, class: Class) {
        let senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = senders.get(&(instance, class)) {
            sender.send_replace(());
        }
    }

    /// What concerns this message is durable, and may be work: itself, or what waits behind it.
    pub(super) fn notify_instance_of(&self, id: MessageId) {
        self.notify(id.instance(), id.class());
    }

    /// Grows whenever a bulk job may have another outcome to note.
    pub fn subscribe_outcomes(&self) -> watch::Receiver<u64> {
        self.outcomes.subscribe()
    }

    /// What concerns this message is durable. If it is a row of a bulk job, that may want to know.
    pub(super) fn notify_job_of(&self, id: MessageId) {
        if id.item().is_some() {
            self.notify_jobs();
        }
    }

    pub(super) fn notify_jobs(&self) {
        self.outcomes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
