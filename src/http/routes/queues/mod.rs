//! `/queue` and `/instances/{id}/queue`: the messages that wait.

mod dto;
pub(in crate::http) mod get;
pub(in crate::http) mod list;

use crate::http::AppState;
use crate::http::error::ApiError;
use dto::Queue;
use relevo_domain::{InstanceId, InstanceNumber};

async fn load_queue(state: &AppState, id: InstanceId, number: InstanceNumber) -> Result<Queue, ApiError> {
    let stats = state.services.queue.stats(number).await?;
    Ok(Queue::new(id, stats, state.services.clock.now()))
}
