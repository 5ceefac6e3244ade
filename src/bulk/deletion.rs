//! The end of a job that nobody needs any more: its names in the queue, its slot, its record, its files.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{InstanceNumber, ProviderMessageId};

use super::handle::Known;
use super::notes::Notes;
use super::reading::sender;
use super::results::{Id, Results};
use super::supervisor::Shared;
use super::{Error, storage};

/// Rows whose names are forgotten at once.
const PAGE: u32 = 1_000;

/// Deletes a job whose actor has ended. What a crash interrupts can be done again: the record goes last but one.
pub(super) async fn delete(shared: &Shared, known: &Arc<Known>) -> Result<(), Error> {
    let slot = known.slot;
    if let Some(standing) = storage::standing(&shared.store, slot)? {
        let files = shared.jobs.of(known.id);
        let mut from = 0;
        while from < standing.cursor.row {
            let (files, senders) = (files.clone(), standing.senders.clone());
            let read = move || names(&files, &senders, from);
            let read = tokio::task::spawn_blocking(read).await;
            // Files that somebody deleted leave names behind, and nothing else.
            let names = read.ok().and_then(Result::ok).unwrap_or_default();
            for (instance, names) in names {
                shared.queue.forget_items(instance, slot, names).await?;
            }
            from += PAGE;
        }
    }
    shared.queue.forget_job(slot).await?;
    shared.store.write(move |tx| storage::delete(tx, slot)).await?;
    let (jobs, id) = (shared.jobs.clone(), known.id);
    let _ = tokio::task::spawn_blocking(move || jobs.remove(id)).await;
    Ok(())
}

type Names = BTreeMap<InstanceNumber, Vec<ProviderMessageId>>;

/// The provider ids of a page of rows, by the instance that sent them.
fn names(files: &super::files::Files, senders: &[super::Sender], from: u32) -> std::io::Result<Names> {
    let results = Results::read_only(&files.results())?;
    let notes = Notes::read_only(&files.notes())?;
    let mut names = Names::new();
    for record in results.page(from, PAGE)?.into_iter().flatten() {
        let id = match record.id {
            Id::None => None,
            Id::Here(id) => Some(id),
            Id::InNote => {
                let note = record.note.and_then(|at| notes.get(at).ok().flatten());
                note.and_then(|(note, _)| note.id)
            }
        };
        if let (Some(id), Some(sender)) = (id, sender(senders, record.device)) {
            names.entry(sender.number).or_default().push(id);
        }
    }
    Ok(names)
}
