//! The end of a job that nobody needs any more: its slot in the queue, its record, its files.

use std::sync::Arc;

use super::handle::Known;
use super::supervisor::Shared;
use super::{Error, storage};

/// Deletes a job whose actor has ended. What a crash interrupts can be done again: the record goes last but one.
pub(super) async fn delete(shared: &Shared, known: &Arc<Known>) -> Result<(), Error> {
    let slot = known.slot;
    shared.queue.forget_job(slot).await?;
    shared.store.write(move |tx| storage::delete(tx, slot)).await?;
    let (jobs, id) = (shared.jobs.clone(), known.id);
    let _ = tokio::task::spawn_blocking(move || jobs.remove(id)).await;
    Ok(())
}
