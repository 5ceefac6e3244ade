//! The counts of a job in the documented form.

use uuid::Uuid;

use super::responses::TaskCounts;
use crate::bulk::{self, JobProgress, RowResult, RowStatus};
use crate::http::api::texts;
use crate::http::error::ApiError;

/// Rows read at once for a response.
const ROWS_PER_READ: u32 = 1_000;

/// Maximum number of failures in a response; `/jobs/{id}/errors` lists all.
const MAX_ERRORS: usize = 1_000;

/// The counts of a job, and the errors of its failed messages in the order of the request.
///
/// # Errors
///
/// The results of the job cannot be read.
pub(super) async fn job_counts(
    bulk: &bulk::Handle,
    id: Uuid,
    progress: &JobProgress,
) -> Result<TaskCounts, ApiError> {
    let counts = progress.counts;
    let not_sent = counts.failed + counts.skipped + counts.cancelled;
    let mut errors = Vec::new();
    let mut next = (not_sent > 0).then_some(0);
    while let Some(from) = next.filter(|_| errors.len() < MAX_ERRORS.min(not_sent as usize)) {
        let page = bulk.results(id, from, ROWS_PER_READ).await?;
        errors.extend(page.rows.iter().filter_map(row_error));
        next = page.next;
    }
    errors.truncate(MAX_ERRORS);
    let errors_truncated = (not_sent as usize > MAX_ERRORS).then_some(true);
    let sent = u64::from(counts.sent);
    Ok(TaskCounts {
        total: u64::from(progress.total),
        successful: sent,
        sent,
        failed: u64::from(not_sent),
        errors,
        errors_truncated,
    })
}

/// The text in `errors` of a row that was not sent.
fn row_error(row: &RowResult) -> Option<String> {
    let cause = match row.status {
        RowStatus::Skipped => texts::SUPPRESSED.to_owned(),
        status if status.is_failure() || status.as_str() == "cancelled" => {
            row.error.clone().unwrap_or_else(|| status.as_str().to_owned())
        }
        _ => return None,
    };
    let code = row.code.map(|code| format!(" ({code})")).unwrap_or_default();
    Some(format!("Error para {}: {cause}{code}", row.phone))
}
