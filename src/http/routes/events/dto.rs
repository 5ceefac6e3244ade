//! The query and the page of events.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::events::EventFilter;
use crate::http::stream::entry::EventEntry;
use relevo_domain::ValidationError;

/// Default and maximum number of events of a page.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    pub(super) success: bool,
    pub(super) data: Vec<EventEntry>,
    /// The `after` of the next page. More events may follow a page that is not full or empty.
    pub(super) next: String,
    /// Whether more events existed when the page was read.
    pub(super) more: bool,
}

/// The query of events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// The sequence or the `next` to continue after. Empty: begin with the oldest event. A stream without it begins
    /// with new events.
    pub after: Option<String>,
    /// Kinds of events, separated by commas. Default: `all`.
    pub types: Option<String>,
    /// 1 to 1000; 100 without it. Streams have no limit.
    pub(super) limit: Option<usize>,
}

impl EventQuery {
    /// The filter of `types`.
    ///
    /// # Errors
    ///
    /// A name is not a kind of event.
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
