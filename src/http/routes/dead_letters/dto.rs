//! Dead letters, and the filters that select them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::http::error::ApiError;
use crate::http::page;
use crate::http::routes::messages;
use crate::http::routes::messages::dto::MessageBody;
use crate::http::timestamp::RequestTimestamp;
use crate::queue::{self, DeadLetterFilter};
use relevo_domain::{BuryReason, InstanceId, MessageId};

/// A dead letter with its history, its content and advice.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    #[schema(example = "shop")]
    instance_id: Option<String>,
    #[serde(flatten)]
    message: MessageBody,
    /// The content of the message.
    #[schema(value_type = Object)]
    content: Value,
    buried_at: String,
    /// What to do about it.
    advice: &'static str,
}

/// The reason of a dead letter.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// WhatsApp rejects it permanently.
    Permanent,
    /// Every permitted attempt failed.
    Exhausted,
    /// It is unknown whether it was sent.
    Ambiguous,
}

/// A filter of dead letters; without fields it selects all.
#[derive(Debug, Default, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterSelection {
    reason: Option<DeadLetterReason>,
    /// Buried at this moment or later: RFC 3339 or Unix seconds.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    since: Option<RequestTimestamp>,
    /// Buried before this moment.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    until: Option<RequestTimestamp>,
}

/// The query of dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    #[param(inline)]
    reason: Option<DeadLetterReason>,
    /// Buried at this moment or later: RFC 3339 or Unix seconds.
    #[param(value_type = Option<String>)]
    since: Option<RequestTimestamp>,
    /// Buried before this moment.
    #[param(value_type = Option<String>)]
    until: Option<RequestTimestamp>,
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

impl From<DeadLetterReason> for BuryReason {
    fn from(reason: DeadLetterReason) -> Self {
        match reason {
            DeadLetterReason::Permanent => BuryReason::Permanent,
            DeadLetterReason::Exhausted => BuryReason::Exhausted,
            DeadLetterReason::Ambiguous => BuryReason::Ambiguous,
        }
    }
}

impl DeadLetterSelection {
    pub(super) fn to_filter(&self) -> DeadLetterFilter {
        DeadLetterFilter {
            reason: self.reason.map(BuryReason::from),
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
        }
    }
}

impl DeadLetterQuery {
    /// The filter, the cursor and the limit.
    ///
    /// # Errors
    ///
    /// The cursor or the limit is invalid.
    pub(super) fn into_parts(self) -> Result<(DeadLetterFilter, Option<MessageId>, usize), ApiError> {
        let which = DeadLetterSelection { reason: self.reason, since: self.since, until: self.until };
        let after = self.after.as_deref().map(messages::parse_cursor).transpose()?;
        Ok((which.to_filter(), after, page::validate_limit(self.limit)?))
    }
}

/// A dead letter with the name of its instance, unless it was deleted.
pub(super) type NamedDeadLetter = (Option<InstanceId>, queue::DeadLetter);

impl From<NamedDeadLetter> for DeadLetter {
    fn from((instance, letter): NamedDeadLetter) -> Self {
        Self {
            instance_id: instance.map(String::from),
            advice: advice(letter.view.buried),
            content: serde_json::to_value(&letter.message.content).unwrap_or_default(),
            buried_at: letter.buried_at.to_string(),
            message: letter.view.into(),
        }
    }
}

fn advice(reason: Option<BuryReason>) -> &'static str {
    match reason {
        Some(BuryReason::Permanent) => {
            "WhatsApp refused it and would refuse it again: send a corrected message and discard this one; redrive \
             it only when what the error names was put right at WhatsApp"
        }
        Some(BuryReason::Exhausted) => {
            "every attempt met trouble that may have passed: redrive it when what the error names is over, or \
             discard it when it comes too late"
        }
        Some(BuryReason::Ambiguous) => {
            "it may have arrived: look into the chat; discard it when it is there, and redrive it only when it is \
             not, or when a second one does no harm"
        }
        None => "redrive it or discard it",
    }
}

pub(super) fn cursor((_, letter): &NamedDeadLetter) -> Option<String> {
    Some(letter.view.id.to_string())
}
