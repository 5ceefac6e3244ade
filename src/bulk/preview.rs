//! What a job would do, without doing it.

use std::time::Duration;

use relevo_domain::{Content, InstanceId, MessageOptions, OutboundMessage};

use super::folders::JobDraft;
use super::job::SenderSelection;
use super::source::RowPayload;
use super::{Error, Handle, senders};

/// Rows among which a recipient is looked for.
const MAX_SCANNED_ROWS: usize = 100;

/// What a job would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    pub total: u32,
    /// The first rows.
    pub rows: Vec<PreviewRow>,
    /// The instances that would send.
    pub senders: Vec<InstanceId>,
    /// How long it takes at the rates of those instances, when nothing else is sent.
    pub duration: Duration,
}

/// What one row would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRow {
    /// The line of the file, from 1.
    pub line: u32,
    pub phone: String,
    /// The message, or why there is none.
    pub message: Result<String, String>,
}

/// What every row of a job gets at least.
#[derive(Debug, Clone, PartialEq)]
pub struct MinimalMessage {
    pub message: OutboundMessage,
    /// The instances that would send it.
    pub senders: Vec<InstanceId>,
}

impl Handle {
    /// A text with nearly nothing in the places of its values, to the first recipient of a draft: what an instance
    /// refuses of it, it would refuse of every row. `None` when the draft names nobody among its first rows.
    ///
    /// # Errors
    ///
    /// Those of [`Handle::create`] that can be known before.
    pub async fn minimal_message(
        &self,
        text: &str,
        senders: &SenderSelection,
        rows: &JobDraft,
    ) -> Result<Option<MinimalMessage>, Error> {
        let senders = senders::initial_senders(senders, &(self.instances)())?;
        let body = rows.format.template(text)?.minimal_text();
        let (place, format) = (rows.source(), rows.format.clone());
        let first = super::handle::run_blocking(move || {
            let page = format.page(&place, format.start(), MAX_SCANNED_ROWS);
            let page = page.map_err(|cause| Error::io("cannot read", &place, cause))?;
            Ok(page.rows.into_iter().find_map(|row| row.to.ok()))
        });
        let Some(to) = first.await? else { return Ok(None) };
        let content = Content::Text { body, preview_url: false };
        let message = OutboundMessage { to, content, quote: None, options: MessageOptions::default() };
        Ok(Some(MinimalMessage { message, senders: senders.into_iter().map(|sender| sender.id).collect() }))
    }

    /// Renders the first `limit` rows of a draft and estimates the duration of its job. The draft is deleted.
    ///
    /// # Errors
    ///
    /// Those of [`Handle::create`] that can be known before.
    pub async fn preview(
        &self,
        text: &str,
        senders: &SenderSelection,
        rows: JobDraft,
        limit: usize,
    ) -> Result<Preview, Error> {
        let devices = (self.instances)();
        let senders = senders::initial_senders(senders, &devices)?;
        let template = rows.format.template(text)?;
        let rate_of =
            |number| devices.iter().find(|device| device.number == number).map(|device| device.rate);
        let rate: f64 = senders.iter().filter_map(|sender| rate_of(sender.number)).sum();
        let total = rows.total;
        let seconds = f64::from(total) / rate.max(f64::MIN_POSITIVE);
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let first = super::handle::run_blocking(move || {
            let place = rows.source();
            let page = rows.format.page(&place, rows.format.start(), limit);
            let page = page.map_err(|cause| Error::io("cannot read", &place, cause))?;
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
