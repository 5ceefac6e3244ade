//! `/dead-letters` and `/instances/{id}/dead-letters`: messages that the node stopped sending, until an operator decides.

pub(in crate::http) mod discard;
mod dto;
pub(in crate::http) mod list;
pub(in crate::http) mod redrive;

use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::routes::messages;
use crate::queue;
use dto::DeadLetterSelection;
use relevo_domain::{ErrorKind, InstanceId, MessageId};

/// Number of dead letters that are redriven or discarded in one commit.
const BATCH_SIZE: usize = 200;

/// What an operator does with dead letters.
#[derive(Debug, Clone, Copy)]
enum DeadLetterAction {
    Redrive,
    Discard,
}

impl DeadLetterAction {
    /// Carries it out for those of the messages that are dead letters; returns their number.
    async fn apply(self, state: &AppState, messages: Vec<MessageId>) -> Result<usize, queue::Error> {
        let queue = &state.services.queue;
        match self {
            DeadLetterAction::Redrive => queue.redrive(messages).await,
            DeadLetterAction::Discard => queue.discard(messages).await,
        }
    }

    /// Carries it out for one dead letter; returns its id.
    async fn apply_to_one(
        self,
        state: &AppState,
        instance: &InstanceId,
        name: &str,
    ) -> Result<MessageId, ApiError> {
        let message = messages::find_message(state, instance, name)?.id;
        match self.apply(state, vec![message]).await? {
            0 => {
                let details = "this message is not a dead letter, or no longer; see its status";
                Err(ApiError::new(ErrorKind::Conflict, details))
            }
            _ => Ok(message),
        }
    }

    /// Carries it out for the selected dead letters; returns their number. Each page continues after the last one of the
    /// page before, so none is selected twice, even if it becomes a dead letter again meanwhile.
    async fn apply_to_selected(
        self,
        state: &AppState,
        instance: &InstanceId,
        which: &DeadLetterSelection,
    ) -> Result<usize, ApiError> {
        let number = state.services.instances.get(instance)?.number;
        let (mut after, mut count) = (None, 0);
        loop {
            let page =
                state.services.queue.dead_letters(number, which.to_filter(), after, BATCH_SIZE).await?;
            let page: Vec<_> = page.iter().map(|letter| letter.view.id).collect();
            let Some(last) = page.last().copied() else { return Ok(count) };
            after = Some(last);
            count += self.apply(state, page).await?;
        }
    }
}
