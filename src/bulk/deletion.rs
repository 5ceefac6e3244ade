//! The end of a job that nobody needs any more: its slot in the queue, its record, its files.

use std::sync::Arc;

use super::handle::JobEntry;
use super::supervisor::JobContext;
use super::{Error, storage};

/// Deletes a job whose actor has ended. What a crash interrupts can be done again: the record goes last but one.
pub(super) async fn delete(shared: &JobContext, known: &Arc<JobEntry>) -> Result<(), Error> {
    let slot = known.slot;
    shared.queue.delete_job(slot).await?;
    shared.store.write(move |tx| storage::delete(tx, slot)).await?;
    let (jobs, id) = (shared.folders.clone(), known.id);
    let _ = tokio::task::spawn_blocking(move || jobs.remove(id)).await;
    Ok(())
}
