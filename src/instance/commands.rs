//! The commands to instances: follow a stored record, connect, disconnect, restart and log out.
//!
//! Each command stores the new record first (`accounts` stores new, reconfigured and deleted ones) and then starts or
//! stops the actor. A crash between the two steps is repaired at the next start, because an actor follows the desired
//! state of its record.

use std::time::Duration;

use ractor::ActorRef;

use crate::supervisor::Incarnation;
use relevo_domain::{InstanceId, InstanceNumber, InstanceState, Reason, ReasonCode};
use relevo_store::Tx;

use super::Error;
use super::directory::{InstanceView, StateView};
use super::record::{self, DesiredState, InstanceRecord};
use super::supervisor::{Msg, State};
use super::unlink::Unlink;

/// Delay before unlinking is tried again, after the keys of the device could not be deleted.
const UNLINK_RETRY_DELAY: Duration = Duration::from_secs(30);

impl State {
    /// Follows the stored record of an instance.
    ///
    /// # Errors
    ///
    /// The record could not be read, or the provider refuses the configuration.
    pub(super) async fn reload(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) -> Result<(), Error> {
        if let Some(record) = record::get(&self.arguments.store, number)? {
            self.follow(me, number, record).await?;
        }
        self.publish_directory();
        Ok(())
    }

    /// Does what a record requires: runs the instance in its desired state, or deletes the data of a deleted instance. The
    /// caller publishes the directory.
    ///
    /// # Errors
    ///
    /// The provider refuses the configuration.
    pub(super) async fn follow(
        &mut self,
        me: &ActorRef<Msg>,
        number: InstanceNumber,
        record: InstanceRecord,
    ) -> Result<(), Error> {
        if record.wanted == DesiredState::Deleted {
            self.stop(number, "it is deleted");
            self.instances.remove(&number);
            self.purge(number, &record);
            return Ok(());
        }
        self.register(number, record)?;
        self.reconcile(me, number).await;
        Ok(())
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
            let change = move |record: &mut InstanceRecord| {
                (record.wanted, record.updated_at) = (desired, updated_at);
            };
            self.modify_record(number, change).await?;
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

    /// Unlinks the device of a deleted instance, then deletes its data. The number is never used again, so this may take
    /// long. The record is deleted last, so that a crash in between repeats the deletion.
    pub(super) fn purge(&self, number: InstanceNumber, record: &InstanceRecord) {
        let (queue, store) = (self.arguments.queue.clone(), self.arguments.store.clone());
        let (unlink, ended) = (self.prepare_unlink(number, record), self.arguments.ended.clone());
        let purge = async move {
            // A failed or interrupted deletion is repeated after the next start.
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
        };
        tokio::spawn(async move { ended.run_until_cancelled(purge).await });
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
        let change = move |record: &mut InstanceRecord| {
            (record.wanted, record.updated_at) = (DesiredState::LoggingOut, updated_at);
        };
        self.modify_record(number, change).await?;
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
        let entry = self.instances.get_mut(&number);
        let Some(entry) = entry.filter(|entry| entry.child.is_current(incarnation)) else { return };
        if !done {
            let start = move |incarnation| Msg::Start(number, incarnation);
            entry.child.restart_after(UNLINK_RETRY_DELAY, me, start);
            return;
        }
        let reason =
            Reason::new(ReasonCode::Requested, "logged out as asked; link it again: GET /instances/{id}/qr");
        let change = move |record: &mut InstanceRecord| {
            (record.wanted, record.account) = (DesiredState::LoggedOut(reason), None);
        };
        if let Err(error) = self.modify_record(number, change).await {
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
        let (me, ended) = (me.clone(), self.arguments.ended.clone());
        tokio::spawn(async move {
            let Some(done) = ended.run_until_cancelled(unlink.run()).await else { return };
            let _ = me.cast(Msg::UnlinkDone(number, incarnation, done));
        });
    }
}
