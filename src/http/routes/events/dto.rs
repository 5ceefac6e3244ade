//! The query and the page of events.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::events::EventFilter;
use crate::http::stream::entry::EventEntry;
use relevo_domain::ValidationError;

/// Events of a page when nobody says how many, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    pub(super) success: bool,
    pub(super) data: Vec<EventEntry>,
    /// Give it as `after` to go on. There may be more behind a page that is not full, even behind an empty one.
    pub(super) next: String,
    /// Whether there was more when the page was read.
    pub(super) more: bool,
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// The sequence, or the `next`, behind which to begin. Empty: with the oldest event. A stream without it tells
    /// what happens from now on.
    pub after: Option<String>,
    /// Kinds of events, separated by commas. Without it, or with `all`, it is every event.
    pub types: Option<String>,
    /// 1 to 1000; 100 without it. Streams have no limit.
    pub(super) limit: Option<usize>,
}

impl EventQuery {
    pub fn kinds(&self) -> Result<EventFilter, ValidationError> {
        let names = self.types.as_deref().unwrap_or_default().split(',').map(str::trim);
        EventFilter::from_names("types", names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    pub(super) fn limit(&self) -> Result<usize, ValidationError> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(ValidationError::new("limit", format!("must be 1 to {MAX_LIMIT}"))),
        }
    }
}
