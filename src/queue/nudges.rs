use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::domain::{InstanceNumber, MessageId};

/// Tells instances that there may be work. A nudge carries nothing, may be lost, and costs one look.
#[derive(Debug, Clone, Default)]
pub struct Nudges {
    instances: Arc<Mutex<HashMap<InstanceNumber, watch::Sender<()>>>>,
    /// For bulk jobs: how often there was something to note since the start.
    outcomes: watch::Sender<u64>,
}

impl Nudges {
    pub fn subscribe(&self, instance: InstanceNumber) -> watch::Receiver<()> {
        let mut senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        senders.entry(instance).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    pub fn nudge(&self, instance: InstanceNumber) {
        let senders = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = senders.get(&instance) {
            sender.send_replace(());
        }
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
