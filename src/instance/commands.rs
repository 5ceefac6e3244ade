//! What owners ask of their instances, and how it is begun.

use std::time::Duration;

use ractor::ActorRef;

use relevo_domain::{InstanceConfig, InstanceId, InstanceNumber, InstanceState, Reason};
use relevo_store::{self as store, Tx};

use super::Error;
use super::directory::{self, DesiredState, InstanceRecord, InstanceView, StateView};
use super::supervisor::{Msg, State};
use super::unlink::Unlink;

/// The pause before the end of a link is tried again, when the keys could not be forgotten.
const UNLINK_RETRY_DELAY: Duration = Duration::from_secs(30);

impl State {
    pub async fn create(
        &mut self,
        me: &ActorRef<Msg>,
        config: InstanceConfig,
    ) -> Result<InstanceView, Error> {
        if self.number_of(&config.id).is_ok() {
            return Err(Error::Exists(config.id));
        }
        // Opening does nothing but check; which number it is for does not matter to that.
        (self.arguments.open_provider)(InstanceNumber::FIRST, &config)?;
        // A device that has to be paired first connects when it is asked to.
        let wanted = match config.provider.capabilities().keeps_connection {
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
            let number = directory::next_number(tx)?;
            if let Some(number) = number {
                store::put_large(tx, directory::record_key(number), &bytes)?;
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

    pub async fn update(
        &mut self,
        me: &ActorRef<Msg>,
        config: InstanceConfig,
    ) -> Result<InstanceView, Error> {
        let (number, before) = self.modifiable_record(&config.id)?;
        (self.arguments.open_provider)(number, &config)?;
        let mut record = InstanceRecord { config, updated_at: self.arguments.clock.now(), ..before.clone() };
        let credentials_changed = record.config.cloud_api != before.config.cloud_api;
        if credentials_changed && matches!(record.wanted, DesiredState::Paused(_)) {
            record.wanted = DesiredState::Connected;
        }
        // A new name or address for events is no reason to lose a connection.
        let InstanceConfig { name, webhook_url, .. } = before.config.clone();
        let matters = InstanceConfig { name, webhook_url, ..record.config.clone() } != before.config;
        self.save_record(number, record).await?;
        if matters {
            self.stop(number, "its configuration changed");
        }
        self.reconcile(me, number).await;
        self.publish_directory();
        Ok(self.entry(number)?.directory_entry.view())
    }

    /// Changes what an instance should be; `anew` also replaces an actor that already does it.
    pub(super) async fn set_desired_state(
        &mut self,
        me: &ActorRef<Msg>,
        id: &InstanceId,
        wanted: DesiredState,
        anew: bool,
    ) -> Result<InstanceView, Error> {
        let (number, record) = self.modifiable_record(id)?;
        if record.wanted != wanted {
            self.save_record(
                number,
                InstanceRecord { wanted, updated_at: self.arguments.clock.now(), ..record },
            )
            .await?;
        }
        if anew {
            self.stop(number, "its owner asked for it");
        }
        if let Some(entry) = self.instances.get_mut(&number) {
            entry.restart_policy.reset();
        }
        self.reconcile(me, number).await;
        self.publish_directory();
        Ok(self.entry(number)?.directory_entry.view())
    }

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

    /// Clears away what a deleted instance left, after ending its link with a phone, where it has one. Its number is never
    /// given again, so this may take its time; its record goes last, so that a crash in between only begins this again.
    pub(super) fn purge(&self, number: InstanceNumber, record: &InstanceRecord) {
        let (queue, store) = (self.arguments.queue.clone(), self.arguments.store.clone());
        let device = self.prepare_unlink(number, record);
        tokio::spawn(async move {
            // What went wrong is begun again after the next start.
            if let Some(device) = device
                && !device.run().await
            {
                return;
            }
            let purged = queue.purge(number).await;
            let remove = move |tx: &mut Tx| store::delete_large(tx, directory::record_key(number));
            let removed = match purged {
                Ok(()) => store.write(remove).await.map_err(Error::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, "what a deleted instance left is cleared away after the next start");
            }
        });
    }

    /// Ends the link between an instance's device and the account. The wish is durable: a crash on the way only begins
    /// this again.
    pub async fn logout(&mut self, me: &ActorRef<Msg>, id: &InstanceId) -> Result<InstanceView, Error> {
        let (number, record) = self.modifiable_record(id)?;
        if !record.config.provider.capabilities().keeps_connection {
            return Err(Error::NoLink(record.config.provider));
        }
        let updated_at = self.arguments.clock.now();
        self.save_record(number, InstanceRecord { wanted: DesiredState::LoggingOut, updated_at, ..record })
            .await?;
        self.stop(number, "it is logged out");
        self.reconcile(me, number).await;
        self.publish_directory();
        Ok(self.entry(number)?.directory_entry.view())
    }

    /// An instance, unless its link is just being ended: nothing else is done with it then.
    fn modifiable_record(&self, id: &InstanceId) -> Result<(InstanceNumber, InstanceRecord), Error> {
        let number = self.number_of(id)?;
        let entry = self.entry(number)?;
        if entry.directory_entry.record.wanted == DesiredState::LoggingOut {
            let StateView { state, reason, .. } = entry.state.borrow().clone();
            return Err(Error::NotConnected { state, reason });
        }
        Ok((number, entry.directory_entry.record.clone()))
    }

    /// The link of an instance is ended, or could not be.
    pub async fn on_unlink_done(
        &mut self,
        me: &ActorRef<Msg>,
        number: InstanceNumber,
        incarnation: u64,
        done: bool,
    ) {
        let Some(entry) = self.instances.get(&number).filter(|entry| entry.incarnation == incarnation) else {
            return;
        };
        if !done {
            drop(me.send_after(UNLINK_RETRY_DELAY, move || Msg::Start(number, incarnation)));
            return;
        }
        let reason = Reason::new("requested", "logged out as asked; link it again: GET /instances/{id}/qr");
        let record = InstanceRecord {
            wanted: DesiredState::LoggedOut(reason),
            account: None,
            ..entry.directory_entry.record.clone()
        };
        if let Err(error) = self.save_record(number, record).await {
            tracing::warn!(%error, "the end of a link could not be written down and will be found out again");
        }
        self.publish_directory();
        self.reconcile(me, number).await;
    }

    /// What ends the link of an instance, where it can have one.
    fn prepare_unlink(&self, number: InstanceNumber, record: &InstanceRecord) -> Option<Unlink> {
        if !record.config.provider.capabilities().keeps_connection {
            return None;
        }
        let client = (self.arguments.open_provider)(number, &record.config).ok()?;
        Some(Unlink { instance: record.config.id.clone(), client, paired: record.account.is_some() })
    }

    /// Starts or leaves alone, as the instance's record wants it.
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
        if record.wanted == DesiredState::Deleted || entry.child.is_some() {
            return;
        }
        let reason = Reason::new("starting", "connecting");
        self.set_state(number, StateView::new(InstanceState::Connecting, reason)).await;
        if !self.draining {
            self.start(me, number).await;
        }
    }

    fn start_unlink(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, record: &InstanceRecord) {
        let Some(device) = self.prepare_unlink(number, record).filter(|_| !self.draining) else { return };
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        if let Some(entry) = self.instances.get_mut(&number) {
            entry.incarnation = incarnation;
        }
        let me = me.clone();
        tokio::spawn(async move {
            let done = device.run().await;
            let _ = me.cast(Msg::UnlinkDone(number, incarnation, done));
        });
    }
}
