//! The commands of the API: create, update, connect, disconnect, restart, log out and delete.
//!
//! Each command stores the new record first and then starts or stops the actor. A crash between the two steps is
//! repaired at the next start, because an actor follows the desired state of its record.

use std::time::Duration;

use ractor::ActorRef;

use crate::supervisor::Incarnation;
use relevo_domain::{InstanceConfig, InstanceId, InstanceNumber, InstanceState, Reason, ReasonCode};
use relevo_store::{self as store, Tx};

use super::Error;
use super::directory::{InstanceView, StateView};
use super::record::{self, DesiredState, InstanceRecord};
use super::supervisor::{Msg, State};
use super::unlink::Unlink;

/// Delay before unlinking is tried again, after the keys of the device could not be deleted.
const UNLINK_RETRY_DELAY: Duration = Duration::from_secs(30);

impl State {
    /// Creates an instance. An instance on the Cloud API connects at once.
    ///
    /// # Errors
    ///
    /// The id is taken, the configuration is invalid, or the record could not be stored.
    pub async fn create(
        &mut self,
        me: &ActorRef<Msg>,
        config: InstanceConfig,
    ) -> Result<InstanceView, Error> {
        if self.number_of(&config.id).is_ok() {
            return Err(Error::Exists(config.id));
        }
        // Creating a client checks the configuration. The number does not matter for that.
        (self.arguments.open_provider)(InstanceNumber::FIRST, &config)?;
        // A device that has to be paired first connects when it is asked to.
        let wanted = match config.provider.kind().capabilities().keeps_connection {
            true => DesiredState::Created,
            false => DesiredState::Connected,
        };
        let now = self.arguments.clock.now();
        let record = InstanceRecord {
            config,
            wanted,
            created_at: now,
            updated_at: now,
            last_connected_at: None,
            account: None,
        };
        let bytes = store::encode(&record)?;
        let write = move |tx: &mut Tx| {
            let number = record::next_number(tx)?;
            if let Some(number) = number {
                tx.put(record::record_key(number), bytes)?;
            }
            Ok(number)
        };
        let number = self.arguments.store.write(write).await?.ok_or(Error::NumbersExhausted(0xFF_FFFF))?;
        self.register(number, record)?;
        self.reconcile(me, number).await;
        self.publish_directory();
        tracing::info!(instance = %self.entry(number)?.directory_entry.record.config.id, "instance created");
        Ok(self.entry(number)?.directory_entry.view())
    }

    /// Replaces the configuration. The actor is replaced if the change concerns it; new credentials resume a paused
    /// instance.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is being logged out, the configuration is invalid, or the record could not be
    /// stored.
    pub async fn update(
        &mut self,
        me: &ActorRef<Msg>,
        config: InstanceConfig,
    ) -> Result<InstanceView, Error> {
        let (number, previous) = self.modifiable_record(&config.id)?;
        (self.arguments.open_provider)(number, &config)?;
        let mut record =
            InstanceRecord { config, updated_at: self.arguments.clock.now(), ..previous.clone() };
        let credentials_changed = record.config.provider.cloud_api() != previous.config.provider.cloud_api();
        if credentials_changed && matches!(record.wanted, DesiredState::Paused(_)) {
            record.wanted = DesiredState::Connected;
        }
        // A new name or webhook URL does not concern the actor and keeps the connection.
        let InstanceConfig { name, webhook_url, .. } = previous.config.clone();
        let concerns_actor = InstanceConfig { name, webhook_url, ..record.config.clone() } != previous.config;
        self.save_record(number, record).await?;
        if concerns_actor {
            self.stop(number, "its configuration changed");
        }
        self.reconcile(me, number).await;
        self.publish_directory();
        Ok(self.entry(number)?.directory_entry.view())
    }

    /// Changes the desired state. `replace_actor`: a running actor is stopped, even if it is in that state.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is being logged out, or the record could not be stored.
    pub(super) async fn set_desired_state(
        &mut self,
        me: &ActorRef<Msg>,
        id: &InstanceId,
        desired: DesiredState,
        replace_actor: bool,
    ) -> Result<InstanceView, Error> {
        let (number, record) = self.modifiable_record(id)?;
        if record.wanted != desired {
            let updated_at = self.arguments.clock.now();
            self.save_record(number, InstanceRecord { wanted: desired, updated_at, ..record }).await?;
        }
        if replace_actor {
            self.stop(number, "requested");
        }
        if let Some(entry) = self.instances.get_mut(&number) {
            entry.child.reset_restarts();
        }
        self.reconcile(me, number).await;
        self.publish_directory();
        Ok(self.entry(number)?.directory_entry.view())
    }

    /// Deletes an instance. Its data is deleted by a task.
    ///
    /// # Errors
    ///
    /// The instance does not exist, or the record could not be stored.
    pub async fn delete(&mut self, id: &InstanceId) -> Result<(), Error> {
        let number = self.number_of(id)?;
        let record = self.entry(number)?.directory_entry.record.clone();
        self.save_record(number, InstanceRecord { wanted: DesiredState::Deleted, ..record.clone() }).await?;
        self.stop(number, "it is deleted");
        self.instances.remove(&number);
        self.publish_directory();
        self.purge(number, &record);
        tracing::info!(instance = %id, "instance deleted");
        Ok(())
    }

    /// Unlinks the device of a deleted instance, then deletes its data. The number is never used again, so this may take
    /// long. The record is deleted last, so that a crash in between repeats the deletion.
    pub(super) fn purge(&self, number: InstanceNumber, record: &InstanceRecord) {
        let (queue, store) = (self.arguments.queue.clone(), self.arguments.store.clone());
        let unlink = self.prepare_unlink(number, record);
        tokio::spawn(async move {
            // A failed deletion is repeated after the next start.
            if let Some(unlink) = unlink
                && !unlink.run().await
            {
                return;
            }
            let purged = queue.purge(number).await;
            let remove = move |tx: &mut Tx| tx.delete(record::record_key(number));
            let removed = match purged {
                Ok(()) => store.write(remove).await.map_err(Error::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, "data of a deleted instance not deleted; retrying after the next start");
            }
        });
    }

    /// Ends the link between the device and its account. The desired state is durable, so a crash in between repeats
    /// this.
    ///
    /// # Errors
    ///
    /// The instance does not exist, has no link or is being logged out, or the record could not be stored.
    pub async fn logout(&mut self, me: &ActorRef<Msg>, id: &InstanceId) -> Result<InstanceView, Error> {
        let (number, record) = self.modifiable_record(id)?;
        if !record.config.provider.kind().capabilities().keeps_connection {
            return Err(Error::NoLink(record.config.provider.kind()));
        }
        let updated_at = self.arguments.clock.now();
        self.save_record(number, InstanceRecord { wanted: DesiredState::LoggingOut, updated_at, ..record })
            .await?;
        self.stop(number, "it is logged out");
        self.reconcile(me, number).await;
        self.publish_directory();
        Ok(self.entry(number)?.directory_entry.view())
    }

    /// The record of an instance, unless it is being logged out: no other command is accepted then.
    fn modifiable_record(&self, id: &InstanceId) -> Result<(InstanceNumber, InstanceRecord), Error> {
        let number = self.number_of(id)?;
        let entry = self.entry(number)?;
        if entry.directory_entry.record.wanted == DesiredState::LoggingOut {
            let StateView { state, reason, .. } = entry.state.borrow().clone();
            return Err(Error::NotConnected { state, reason });
        }
        Ok((number, entry.directory_entry.record.clone()))
    }

    /// Stores the logged-out state, or schedules another try to unlink.
    pub async fn on_unlink_done(
        &mut self,
        me: &ActorRef<Msg>,
        number: InstanceNumber,
        incarnation: Incarnation,
        done: bool,
    ) {
        let entry = self.instances.get(&number);
        let Some(entry) = entry.filter(|entry| entry.child.is_current(incarnation)) else { return };
        if !done {
            drop(me.send_after(UNLINK_RETRY_DELAY, move || Msg::Start(number, incarnation)));
            return;
        }
        let reason =
            Reason::new(ReasonCode::Requested, "logged out as asked; link it again: GET /instances/{id}/qr");
        let record = InstanceRecord {
            wanted: DesiredState::LoggedOut(reason),
            account: None,
            ..entry.directory_entry.record.clone()
        };
        if let Err(error) = self.save_record(number, record).await {
            tracing::warn!(%error, "logged-out state not stored; the instance is unlinked again after the next start");
        }
        self.publish_directory();
        self.reconcile(me, number).await;
    }

    /// Prepares to unlink the device of an instance; `None` if its provider has no link.
    fn prepare_unlink(&self, number: InstanceNumber, record: &InstanceRecord) -> Option<Unlink> {
        if !record.config.provider.kind().capabilities().keeps_connection {
            return None;
        }
        let client = (self.arguments.open_provider)(number, &record.config).ok()?;
        Some(Unlink { instance: record.config.id.clone(), client, paired: record.account.is_some() })
    }

    /// Starts the actor or the unlink task, as the desired state requires, and publishes the state.
    pub async fn reconcile(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) {
        let Some(entry) = self.instances.get(&number) else { return };
        let record = entry.directory_entry.record.clone();
        if let Some((state, reason)) = record.wanted.idle_state() {
            self.set_state(number, StateView::new(state, reason)).await;
            if record.wanted == DesiredState::LoggingOut {
                self.start_unlink(me, number, &record);
            }
            return;
        }
        if record.wanted == DesiredState::Deleted || entry.child.actor().is_some() {
            return;
        }
        let reason = Reason::new(ReasonCode::Starting, "connecting");
        self.set_state(number, StateView::new(InstanceState::Connecting, reason)).await;
        if !self.draining {
            self.start(me, number).await;
        }
    }

    fn start_unlink(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, record: &InstanceRecord) {
        let Some(unlink) = self.prepare_unlink(number, record).filter(|_| !self.draining) else { return };
        let Some(entry) = self.instances.get_mut(&number) else { return };
        let incarnation = entry.child.begin();
        let me = me.clone();
        tokio::spawn(async move {
            let done = unlink.run().await;
            let _ = me.cast(Msg::UnlinkDone(number, incarnation, done));
        });
    }
}
