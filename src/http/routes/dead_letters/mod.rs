//! `/dead-letters` and `/instances/{id}/dead-letters`: messages that the node stopped sending, until an operator decides.

pub(in crate::http) mod discard;
mod dto;
pub(in crate::http) mod list;
pub(in crate::http) mod redrive;

use crate::http::AppState;
use crate::http::error::ApiError;
use dto::DeadLetterSelection;
use relevo_domain::{ErrorKind, InstanceNumber, MessageId};

/// Number of dead letters that are redriven or discarded in one commit.
const BATCH_SIZE: usize = 200;

/// The next selected dead letters after `after`. Continuing after the last one of a page returns none twice, even if
/// one becomes a dead letter again meanwhile.
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
    ApiError::new(ErrorKind::Conflict, "this message is not a dead letter, or no longer; see its status")
}
