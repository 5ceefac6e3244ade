//! Previews of jobs: the first messages and the duration, without sending anything.

use std::time::Duration;

use relevo_domain::{Content, InstanceId, MessageOptions, OutboundMessage};

use super::drafts::JobDraft;
use super::job::{JobSender, SenderSelection};
use super::source::RowPayload;
use super::{Error, Handle, senders};

/// Number of rows in which a valid recipient is searched.
const MAX_SCANNED_ROWS: usize = 100;

/// The preview of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// Number of rows.
    pub total: u32,
    /// The first rows.
    pub rows: Vec<PreviewRow>,
    /// The instances that would send.
    pub senders: Vec<InstanceId>,
    /// Estimated duration at the rates of those instances, if they send nothing else.
    pub duration: Duration,
}

/// The preview of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRow {
    /// Line of the file, from 1.
    pub line: u32,
    /// The recipient as the source spells it.
    pub phone: String,
    /// The message, or why the row is invalid.
    pub message: Result<String, String>,
}

/// The shortest message that a row of a job can have.
#[derive(Debug, Clone, PartialEq)]
pub struct MinimalMessage {
    /// The message, to the first valid recipient.
    pub message: OutboundMessage,
    /// The instances that would send it.
    pub senders: Vec<InstanceId>,
}

impl Handle {
    /// The shortest rendering of a text, addressed to the first valid recipient of a draft. If an instance refuses it, the
    /// instance would refuse every row. `None`: the first rows of the draft have no valid recipient.
    ///
    /// # Errors
    ///
    /// Those errors of [`Handle::create`] that do not need the job.
    pub async fn minimal_message(
        &self,
        text: &str,
        senders: &SenderSelection,
        rows: &JobDraft,
    ) -> Result<Option<MinimalMessage>, Error> {
        let senders = senders::initial_senders(senders, &(self.instances)())?;
        let body = rows.format.template(text)?.minimal_text();
        let (source, format) = (rows.source(), rows.format.clone());
        let first = super::handle::run_blocking(move || {
            let page = format.page(&source, format.start(), MAX_SCANNED_ROWS);
            let page = page.map_err(|cause| Error::io("cannot read", &source, cause))?;
            Ok(page.rows.into_iter().find_map(|row| row.to.ok()))
        });
        let Some(to) = first.await? else { return Ok(None) };
        let content = Content::Text { body, preview_url: false };
        let message = OutboundMessage { to, content, quote: None, options: MessageOptions::default() };
        Ok(Some(MinimalMessage { message, senders: senders.into_iter().map(|sender| sender.id).collect() }))
    }

    /// Renders the first `limit` rows of a draft and estimates the duration of its job. Deletes the draft.
    ///
    /// # Errors
    ///
    /// Those errors of [`Handle::create`] that do not need the job.
    pub async fn preview(
        &self,
        text: &str,
        senders: &SenderSelection,
        rows: JobDraft,
        limit: usize,
    ) -> Result<Preview, Error> {
        let instances = (self.instances)();
        let senders = senders::initial_senders(senders, &instances)?;
        let template = rows.format.template(text)?;
        let find = |sender: &JobSender| instances.iter().find(|instance| instance.number == sender.number);
        let rate: f64 = senders.iter().filter_map(find).map(|instance| instance.rate).sum();
        let total = rows.total;
        let seconds = f64::from(total) / rate.max(f64::MIN_POSITIVE);
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let first = super::handle::run_blocking(move || {
            let source = rows.source();
            let page = rows.format.page(&source, rows.format.start(), limit);
            let page = page.map_err(|cause| Error::io("cannot read", &source, cause))?;
            let render = |row: super::source::SourceRow| PreviewRow {
                line: row.position.line,
                message: row.to.map(|_| match &row.payload {
                    RowPayload::Cells(cells) => template.render(cells),
                    RowPayload::Nothing | RowPayload::Content(_) => String::new(),
                }),
                phone: row.phone,
            };
            Ok(page.rows.into_iter().map(render).collect())
        });
        let senders = senders.into_iter().map(|sender| sender.id).collect();
        Ok(Preview { total, rows: first.await?, senders, duration })
    }
}
