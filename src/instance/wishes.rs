//! What owners ask of their instances, and how it is begun.

use std::time::Duration;

use ractor::ActorRef;

use relevo_domain::{InstanceConfig, InstanceId, InstanceNumber, InstanceState, ProviderKind, Reason};
use relevo_store::{self as store, Tx};

use super::Error;
use super::directory::{self, InstanceView, Record, StateView, Wanted};
use super::parting::Parting;
use super::supervisor::{Msg, State};

/// The pause before the end of a link is tried again, when the keys could not be forgotten.
const PARTING_PAUSE: Duration = Duration::from_secs(30);

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
        (self.arguments.open)(InstanceNumber::FIRST, &config)?;
        let wanted = match config.provider {
            ProviderKind::CloudApi => Wanted::Connected,
            ProviderKind::LinkedDevice => Wanted::Created,
        };
        let now = self.arguments.clock.now();
        let record = Record {
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
        let number = self.arguments.store.write(write).await?.ok_or(Error::NoNumbers(0xFF_FFFF))?;
        self.adopt(number, record)?;
        self.follow_wish(me, number).await;
        self.publish();
        tracing::info!(instance = %self.entry(number)?.known.record.config.id, "instance created");
        Ok(self.entry(number)?.known.view())
    }

    pub async fn update(
        &mut self,
        me: &ActorRef<Msg>,
        config: InstanceConfig,
    ) -> Result<InstanceView, Error> {
        let (number, before) = self.settled(&config.id)?;
        (self.arguments.open)(number, &config)?;
        let mut record = Record { config, updated_at: self.arguments.clock.now(), ..before.clone() };
        let credentials_changed = record.config.cloud_api != before.config.cloud_api;
        if credentials_changed && matches!(record.wanted, Wanted::Paused(_)) {
            record.wanted = Wanted::Connected;
        }
        // A new name or address for events is no reason to lose a connection.
        let InstanceConfig { name, webhook_url, .. } = before.config.clone();
        let matters = InstanceConfig { name, webhook_url, ..record.config.clone() } != before.config;
        self.write(number, record).await?;
        if matters {
            self.stop(number, "its configuration changed");
        }
        self.follow_wish(me, number).await;
        self.publish();
        Ok(self.entry(number)?.known.view())
    }

    /// Changes what an instance should be; `anew` also replaces an actor that already does it.
    pub(super) async fn wish(
        &mut self,
        me: &ActorRef<Msg>,
        id: &InstanceId,
        wanted: Wanted,
        anew: bool,
    ) -> Result<InstanceView, Error> {
        let (number, record) = self.settled(id)?;
        if record.wanted != wanted {
            self.write(number, Record { wanted, updated_at: self.arguments.clock.now(), ..record }).await?;
        }
        if anew {
            self.stop(number, "its owner asked for it");
        }
        if let Some(entry) = self.instances.get_mut(&number) {
            entry.patience.reset();
        }
        self.follow_wish(me, number).await;
        self.publish();
        Ok(self.entry(number)?.known.view())
    }

    pub async fn delete(&mut self, id: &InstanceId) -> Result<(), Error> {
        let number = self.number_of(id)?;
        let record = self.entry(number)?.known.record.clone();
        self.write(number, Record { wanted: Wanted::Deleted, ..record.clone() }).await?;
        self.stop(number, "it is deleted");
        self.instances.remove(&number);
        self.publish();
        self.forget(number, &record);
        tracing::info!(instance = %id, "instance deleted");
        Ok(())
    }

    /// Clears away what a deleted instance left, after ending its link with a phone, where it has one. Its number is never
    /// given again, so this may take its time; its record goes last, so that a crash in between only begins this again.
    pub(super) fn forget(&self, number: InstanceNumber, record: &Record) {
        let (queue, store) = (self.arguments.queue.clone(), self.arguments.store.clone());
        let device = self.device_of(number, record);
        tokio::spawn(async move {
            // What went wrong is begun again after the next start.
            if let Some(device) = device
                && !device.part().await
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
        let (number, record) = self.settled(id)?;
        if !record.config.provider.keeps_connection() {
            return Err(Error::NoLink(record.config.provider));
        }
        let updated_at = self.arguments.clock.now();
        self.write(number, Record { wanted: Wanted::Leaving, updated_at, ..record }).await?;
        self.stop(number, "it is logged out");
        self.follow_wish(me, number).await;
        self.publish();
        Ok(self.entry(number)?.known.view())
    }

    /// An instance, unless its link is just being ended: nothing else is done with it then.
    fn settled(&self, id: &InstanceId) -> Result<(InstanceNumber, Record), Error> {
        let number = self.number_of(id)?;
        let entry = self.entry(number)?;
        if entry.known.record.wanted == Wanted::Leaving {
            let StateView { state, reason, .. } = entry.state.borrow().clone();
            return Err(Error::NotConnected { state, reason });
        }
        Ok((number, entry.known.record.clone()))
    }

    /// The link of an instance is ended, or could not be.
    pub async fn parted(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, incarnation: u64, done: bool) {
        let Some(entry) = self.instances.get(&number).filter(|entry| entry.incarnation == incarnation) else {
            return;
        };
        if !done {
            drop(me.send_after(PARTING_PAUSE, move || Msg::Start(number, incarnation)));
            return;
        }
        let reason = Reason::new("requested", "logged out as asked; link it again: GET /instances/{id}/qr");
        let record =
            Record { wanted: Wanted::LoggedOut(reason), account: None, ..entry.known.record.clone() };
        if let Err(error) = self.write(number, record).await {
            tracing::warn!(%error, "the end of a link could not be written down and will be found out again");
        }
        self.publish();
        self.follow_wish(me, number).await;
    }

    /// What ends the link of an instance, where it can have one.
    fn device_of(&self, number: InstanceNumber, record: &Record) -> Option<Parting> {
        if !record.config.provider.keeps_connection() {
            return None;
        }
        let client = (self.arguments.open)(number, &record.config).ok()?;
        Some(Parting { instance: record.config.id.clone(), client, paired: record.account.is_some() })
    }

    /// Starts or leaves alone, as the instance's record wants it.
    pub async fn follow_wish(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) {
        let Some(entry) = self.instances.get(&number) else { return };
        let record = entry.known.record.clone();
        if let Some((state, reason)) = record.wanted.rest() {
            self.show(number, StateView::new(state, reason)).await;
            if record.wanted == Wanted::Leaving {
                self.part(me, number, &record);
            }
            return;
        }
        if record.wanted == Wanted::Deleted || entry.child.is_some() {
            return;
        }
        let reason = Reason::new("starting", "connecting");
        self.show(number, StateView::new(InstanceState::Connecting, reason)).await;
        if !self.draining {
            self.start(me, number).await;
        }
    }

    fn part(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, record: &Record) {
        let Some(device) = self.device_of(number, record).filter(|_| !self.draining) else { return };
        self.incarnations += 1;
        let incarnation = self.incarnations;
        if let Some(entry) = self.instances.get_mut(&number) {
            entry.incarnation = incarnation;
        }
        let me = me.clone();
        tokio::spawn(async move {
            let done = device.part().await;
            let _ = me.cast(Msg::Parted(number, incarnation, done));
        });
    }
}
