//! Changes of the primary endpoint of an instance that are a part of a commit of another module.

use relevo_domain::{InstanceNumber, Timestamp};
use relevo_store::{Error, Store, Tx};

use super::CheckedConfig;
use super::endpoint::{Endpoint, EndpointId, EndpointScope, EndpointUpdate};
use super::storage;

/// What a commit does with the primary endpoint of an instance. [`Handle::plan_primary`](super::Handle::plan_primary)
/// decides it.
#[derive(Debug)]
pub enum PrimaryChange {
    /// Create it, with a new id.
    Create(EndpointId, CheckedConfig),
    /// Change its URL. If it was deleted meanwhile, create one with the new id.
    SetUrl { id: EndpointId, new_id: EndpointId, config: CheckedConfig },
    /// Delete it.
    Delete(EndpointId),
}

impl PrimaryChange {
    /// Writes the change and returns the endpoint that it concerns. After the commit, pass the id to
    /// [`Handle::reload`](super::Handle::reload).
    ///
    /// # Errors
    ///
    /// The store could not be read, or a record could not be decoded.
    pub fn write(
        self,
        tx: &mut Tx,
        store: &Store,
        instance: InstanceNumber,
        now: Timestamp,
    ) -> Result<EndpointId, Error> {
        match self {
            PrimaryChange::Create(id, config) => create(tx, store, id, instance, config, now),
            PrimaryChange::SetUrl { id, new_id, config } => {
                let update = EndpointUpdate { url: Some(config.0.url.clone()), ..EndpointUpdate::default() };
                match storage::modify_endpoint(tx, id, |endpoint| endpoint.with_update(update, now))? {
                    Some(_) => storage::reset_cursors(tx, id).map(|()| id),
                    // A request has deleted it meanwhile.
                    None => create(tx, store, new_id, instance, config, now),
                }
            }
            PrimaryChange::Delete(id) => storage::delete_endpoints(tx, &[id]).map(|()| id),
        }
    }
}

fn create(
    tx: &mut Tx,
    store: &Store,
    id: EndpointId,
    instance: InstanceNumber,
    CheckedConfig(config): CheckedConfig,
    now: Timestamp,
) -> Result<EndpointId, Error> {
    let endpoint = Endpoint::new(EndpointScope::Instance(instance), true, config, now);
    storage::create_endpoint(tx, store, id, &endpoint, &[instance])?;
    Ok(id)
}
