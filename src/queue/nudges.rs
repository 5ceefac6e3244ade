use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use relevo_domain::{Class, InstanceNumber, MessageId};

/// Tells instances that there may be work. A nudge carries nothing, may be lost, and costs one look.
#[derive(Debug, Clone, Default)]
pub struct Nudges {
    instances: Arc<Mutex<Instances>>,
    /// For bulk jobs: how often there was something to note since the start.
    outcomes: watch::Sender<u64>,
}

type Instances = HashMap<(InstanceNumber, Class), watch::Sender<()>>;

impl Nudges {
    pub fn subscribe(&self, instance: InstanceNumber, class: Class) -> watch::Receiver<()> {
        let mut senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        senders.entry((instance, class)).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    pub fn nudge(&self, instance: InstanceNumber, class: Class) {
        let senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = senders.get(&(instance, class)) {
            sender.send_replace(());
        }
    }

    /// What concerns this message is durable, and may be work: itself, or what waits behind it.
    pub(super) fn nudge_for(&self, id: MessageId) {
        self.nudge(id.instance(), id.class());
    }

    /// Grows whenever a bulk job may have another outcome to note.
    pub fn outcomes(&self) -> watch::Receiver<u64> {
        self.outcomes.subscribe()
    }

    /// What concerns this message is durable. If it is a row of a bulk job, that may want to know.
    pub(super) fn nudge_job(&self, id: MessageId) {
        if id.item().is_some() {
            self.nudge_jobs();
        }
    }

    pub(super) fn nudge_jobs(&self) {
        self.outcomes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
