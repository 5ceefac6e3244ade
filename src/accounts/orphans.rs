//! Endpoints whose instance does not exist.

use relevo_store::{Error, Store, Tx};

use crate::{instance, webhook};

/// Deletes the endpoints of instances that do not exist, before the supervisors load them. Earlier binaries deleted an
/// instance and its endpoints in two commits, and a crash between these left the endpoints. Numbers of instances are never
/// reused, so such an endpoint receives nothing. The supervisor of the webhooks deletes the cursors when it starts.
///
/// # Errors
///
/// The store could not be read, or the commit failed.
pub(super) async fn delete_orphans(store: &Store) -> Result<(), Error> {
    let delete = |tx: &mut Tx| {
        let mut orphans = Vec::new();
        for (id, instance) in webhook::endpoints_of_instances(tx)? {
            if !instance::exists(tx, instance)? {
                orphans.push(id);
            }
        }
        webhook::delete_endpoints(tx, &orphans)?;
        Ok(orphans)
    };
    for id in store.write(delete).await? {
        tracing::warn!(endpoint = %id, "webhook endpoint of a deleted instance deleted");
    }
    Ok(())
}
