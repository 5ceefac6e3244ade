//! What a job would do, without doing it.

use std::time::Duration;

use relevo_domain::{Content, InstanceId, Manner, OutboundMessage};

use super::files::Draft;
use super::job::Senders;
use super::source::Body;
use super::{Error, Handle, devices};

/// Rows among which a recipient is looked for.
const LOOKED_AT: usize = 100;

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
pub struct Least {
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
    pub async fn least(&self, text: &str, senders: &Senders, rows: &Draft) -> Result<Option<Least>, Error> {
        let senders = devices::at_start(senders, &(self.devices)())?;
        let body = rows.format.template(text)?.least();
        let (place, format) = (rows.source(), rows.format.clone());
        let first = super::handle::blocking(move || {
            let page = format.page(&place, format.start(), LOOKED_AT);
            let page = page.map_err(|cause| Error::io("cannot read", &place, cause))?;
            Ok(page.rows.into_iter().find_map(|row| row.to.ok()))
        });
        let Some(to) = first.await? else { return Ok(None) };
        let content = Content::Text { body, preview_url: false };
        let message = OutboundMessage { to, content, quote: None, manner: Manner::default() };
        Ok(Some(Least { message, senders: senders.into_iter().map(|sender| sender.id).collect() }))
    }

    /// Renders the first `limit` rows of a draft and estimates the duration of its job. The draft is deleted.
    ///
    /// # Errors
    ///
    /// Those of [`Handle::create`] that can be known before.
    pub async fn preview(
        &self,
        text: &str,
        senders: &Senders,
        rows: Draft,
        limit: usize,
    ) -> Result<Preview, Error> {
        let devices = (self.devices)();
        let senders = devices::at_start(senders, &devices)?;
        let template = rows.format.template(text)?;
        let rate_of =
            |number| devices.iter().find(|device| device.number == number).map(|device| device.rate);
        let rate: f64 = senders.iter().filter_map(|sender| rate_of(sender.number)).sum();
        let total = rows.total;
        let seconds = f64::from(total) / rate.max(f64::MIN_POSITIVE);
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let first = super::handle::blocking(move || {
            let place = rows.source();
            let page = rows.format.page(&place, rows.format.start(), limit);
            let page = page.map_err(|cause| Error::io("cannot read", &place, cause))?;
            let render = |row: super::source::Row| PreviewRow {
                line: row.place.line,
                message: row.to.map(|_| match &row.body {
                    Body::Cells(cells) => template.render(cells),
                    Body::Nothing | Body::Content(_) => String::new(),
                }),
                phone: row.phone,
            };
            Ok(page.rows.into_iter().map(render).collect())
        });
        let senders = senders.into_iter().map(|sender| sender.id).collect();
        Ok(Preview { total, rows: first.await?, senders, duration })
    }
}
