//! `/dead-letters` and `/instances/{id}/dead-letters`: messages that the node stopped sending, until an operator decides.

pub(in crate::http) mod discard;
mod dto;
pub(in crate::http) mod list;
pub(in crate::http) mod redrive;

use crate::http::AppState;
use crate::http::error::ApiError;
use dto::DeadLetterSelection;
use relevo_domain::{ErrorKind, InstanceNumber, MessageId};

/// So many are redriven or discarded in one commit.
const BATCH_SIZE: usize = 200;

/// The next dead letters that are meant, behind `after`. Whoever goes on behind the last of them meets none twice, not
/// even one that dies again meanwhile.
async fn next_page(
    state: &AppState,
    instance: InstanceNumber,
    which: &DeadLetterSelection,
    after: Option<MessageId>,
) -> Result<Vec<MessageId>, ApiError> {
    let page = state.services.queue.dead_letters(instance, which.to_filter(), after, BATCH_SIZE).await?;
    Ok(page.iter().map(|letter| letter.view.id).collect())
}

fn not_a_dead_letter() -> ApiError {
    ApiError::new(ErrorKind::Conflict, "this message is no dead letter, or no longer; ask for its status")
}
