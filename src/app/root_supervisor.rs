//! The root of the supervision tree.
//!
//! Its children restart their own children. When one of its children fails, the node stops, because only a start from
//! the data folder restores a consistent state.

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio_util::sync::CancellationToken;

use crate::accounts::AccountsActor;
use crate::bulk::BulkSupervisor;
use crate::instance::InstanceSupervisor;
use crate::relay::RelaySupervisor;
use crate::retry::RetrySupervisor;
use crate::supervisor::ActorSlot;
use crate::webhook::WebhookSupervisor;

/// An actor to start, and the slot through which its handles reach it.
pub(super) struct Child<A: Actor> {
    pub actor: A,
    pub arguments: A::Arguments,
    pub slot: ActorSlot<A::Msg>,
}

impl<A: Actor> Child<A> {
    async fn start(self, root: ActorCell) -> Result<(), ActorProcessingErr> {
        let (actor, _) = Actor::spawn_linked(None, self.actor, self.arguments, root).await?;
        self.slot.fill(actor);
        Ok(())
    }
}

/// The children of the root supervisor, in the order in which it starts them.
pub(super) struct Children {
    pub retry: Child<RetrySupervisor>,
    /// Starts before the supervisors whose records it repairs.
    pub accounts: Child<AccountsActor>,
    pub instances: Child<InstanceSupervisor>,
    pub webhooks: Child<WebhookSupervisor>,
    pub bulk: Child<BulkSupervisor>,
    /// `None` without a configured relay.
    pub relay: Option<Child<RelaySupervisor>>,
}

/// The root supervisor. Its state is the token that it cancels when a child has failed or ended.
pub(super) struct RootSupervisor;

impl Actor for RootSupervisor {
    type Msg = ();
    type State = CancellationToken;
    type Arguments = (Children, CancellationToken);

    async fn pre_start(
        &self,
        me: ActorRef<()>,
        (children, failed): Self::Arguments,
    ) -> Result<CancellationToken, ActorProcessingErr> {
        children.retry.start(me.get_cell()).await?;
        children.accounts.start(me.get_cell()).await?;
        children.instances.start(me.get_cell()).await?;
        children.webhooks.start(me.get_cell()).await?;
        children.bulk.start(me.get_cell()).await?;
        if let Some(relay) = children.relay {
            relay.start(me.get_cell()).await?;
        }
        Ok(failed)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        failed: &mut CancellationToken,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, cause) => {
                tracing::error!(actor = %cell.get_id(), %cause, "supervisor failed; stopping node");
                failed.cancel();
            }
            SupervisionEvent::ActorTerminated(..) => failed.cancel(),
            _ => {}
        }
        Ok(())
    }
}
