//! `/suppressions`: who must not be written to unasked.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::Multipart;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::contacts::{Entered, Suppressed, Suppressions, Why};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, Page};
use crate::http::phone_lines::{Line, PhoneLines};
use crate::http::{AppState, body, json};
use relevo_domain::{ErrorKind, Invalid, Recipient};

/// The most phones of one request that is no file.
const MOST_PHONES: usize = 10_000;

/// So many people are entered at once while a file arrives.
const AT_ONCE: usize = 500;

/// So many wrong lines of a file are told.
const MOST_WRONG: usize = 100;

/// Somebody on the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Suppression {
    #[schema(example = "573001234567")]
    phone: String,
    /// `api`, `file`, `opted_out`, `preference` or `keyword`.
    #[schema(example = "keyword")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Since when.
    created_at: String,
}

/// One entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionAnswer {
    success: bool,
    data: Suppression,
}

/// Who is to be put on the list: one of `phone` and `phones`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewSuppressions {
    #[serde(default)]
    phone: Option<String>,
    /// Up to 10000.
    #[serde(default)]
    phones: Vec<String>,
    /// Why, in the caller's words; up to 512 bytes.
    #[serde(default)]
    note: Option<String>,
}

/// How many were put on the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnteredAnswer {
    success: bool,
    data: Counts,
}

#[derive(Debug, Serialize, ToSchema)]
struct Counts {
    added: u64,
    /// They were on it before, and keep their entry.
    already: u64,
}

/// What a file did.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportAnswer {
    success: bool,
    data: Imported,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct Imported {
    added: u64,
    /// They were on the list before, and keep their entry.
    already: u64,
    /// Lines that name nobody.
    invalid_total: u64,
    /// The first 100 of them.
    invalid: Vec<WrongLine>,
}

#[derive(Debug, Serialize, ToSchema)]
struct WrongLine {
    /// The first is 1.
    line: u64,
    reason: String,
}

/// Somebody was taken off the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Released {
    success: bool,
}

/// Which page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

impl From<Suppressed> for Suppression {
    fn from(entry: Suppressed) -> Self {
        Self {
            phone: entry.who.to_string(),
            reason: entry.why.as_str(),
            note: entry.note,
            created_at: entry.at.to_string(),
        }
    }
}

/// The `phone` of a path, in any spelling.
pub(in crate::http) struct Somebody(Recipient);

impl FromRequestParts<AppState> for Somebody {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let found = Path::<String>::from_request_parts(parts, state).await;
        let Path(phone) = found.map_err(|refused| Invalid::new("phone", refused.body_text()))?;
        Ok(Self(phone.parse().map_err(|wrong: Invalid| Invalid::new("phone", wrong.reason))?))
    }
}

fn not_on_it(who: &Recipient) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("{who} is not on the suppression list"))
}

/// Shows the list.
#[utoipa::path(get, path = "/suppressions", operation_id = "list_suppressions", tag = "suppressions",
    params(Wanted), responses(
        (status = 200, description = "A page of it.", body = Page<Suppression>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list(
    State(state): State<AppState>,
    QueryOf(wanted): QueryOf<Wanted>,
) -> Result<Json<Page<Suppression>>, ApiError> {
    let limit = page::limit(wanted.limit)?;
    let wrong = |_: Invalid| Invalid::new("after", "must be the `next` of the page before");
    let after = wanted.after.as_deref().map(str::parse).transpose().map_err(wrong)?;
    let found = state.services.suppressions.list(after, limit).await?;
    Ok(Json(Page::of(found, limit, |entry: &Suppressed| Some(entry.who.to_string()))))
}

/// Puts people on the list. Who is on it already keeps the first entry.
#[utoipa::path(post, path = "/suppressions", operation_id = "add_suppressions", tag = "suppressions",
    request_body = NewSuppressions, responses(
        (status = 200, description = "They are on it, durably.", body = EnteredAnswer),
        (status = 400, description = "A phone is wrong; nobody was put on the list.", body = ErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ErrorBody),
    ))]
pub async fn enter(
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<Json<EnteredAnswer>, ApiError> {
    let NewSuppressions { phone, phones, note } = json::parse(&body)?;
    let people = match (phone, phones.len()) {
        (Some(phone), 0) => vec![phone.parse()?],
        (None, 1..=MOST_PHONES) => named(&phones)?,
        (None, 0) => return Err(Invalid::new("phones", "is missing; name one phone or more").into()),
        (None, _) => {
            let help = "send them as a file to /suppressions/import";
            return Err(
                Invalid::new("phones", format!("may have {MOST_PHONES} entries at most; {help}")).into()
            );
        }
        (Some(_), _) => return Err(Invalid::new("phone", "give phone or phones, not both").into()),
    };
    let Entered { added, already } = state.services.suppressions.enter(people, Why::Api, note).await?;
    Ok(Json(EnteredAnswer { success: true, data: Counts { added, already } }))
}

fn named(phones: &[String]) -> Result<Vec<Recipient>, Invalid> {
    let parse = |(at, phone): (usize, &String)| {
        let wrong = |wrong: Invalid| Invalid::new(format!("phones[{at}]"), wrong.reason);
        phone.parse().map_err(wrong)
    };
    phones.iter().enumerate().map(parse).collect()
}

/// Shows somebody's entry.
#[utoipa::path(get, path = "/suppressions/{phone}", operation_id = "get_suppression", tag = "suppressions",
    responses(
        (status = 200, description = "They are on the list.", body = SuppressionAnswer),
        (status = 400, description = "This is no phone.", body = ErrorBody),
        (status = 404, description = "They are not.", body = ErrorBody),
    ))]
pub async fn get(
    State(state): State<AppState>,
    Somebody(who): Somebody,
) -> Result<Json<SuppressionAnswer>, ApiError> {
    let found = state.services.suppressions.get(&who)?.ok_or_else(|| not_on_it(&who))?;
    Ok(Json(SuppressionAnswer { success: true, data: found.into() }))
}

/// Takes somebody off the list.
#[utoipa::path(delete, path = "/suppressions/{phone}", operation_id = "delete_suppression", tag = "suppressions",
    responses(
        (status = 200, description = "They are off it, durably.", body = Released),
        (status = 400, description = "This is no phone.", body = ErrorBody),
        (status = 404, description = "They were not on it.", body = ErrorBody),
    ))]
pub async fn release(
    State(state): State<AppState>,
    Somebody(who): Somebody,
) -> Result<Json<Released>, ApiError> {
    if state.services.suppressions.release(who.clone()).await? {
        Ok(Json(Released { success: true }))
    } else {
        Err(not_on_it(&who))
    }
}

/// Puts the people of a file on the list: a phone in the first column of each line, as the body itself or as a file
/// in a form. It is read while it arrives; when it breaks off, what arrived stays on the list, and sending it again
/// does no harm.
#[utoipa::path(post, path = "/suppressions/import", operation_id = "import_suppressions", tag = "suppressions",
    request_body(content = String, content_type = "text/csv"), responses(
        (status = 200, description = "They are on it, durably.", body = ImportAnswer),
        (status = 400, description = "There is no file, or it broke off.", body = ErrorBody),
        (status = 413, description = "The file is too large.", body = ErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ErrorBody),
    ))]
pub async fn import(State(state): State<AppState>, request: Request) -> Result<Json<ImportAnswer>, ApiError> {
    let limit = state.options.media_body_limit;
    if length(request.headers()).is_some_and(|length| length > limit) {
        body::discard(request, limit);
        return Err(ApiError::too_large(limit));
    }
    let import = Import::new(state.services.suppressions.clone(), limit);
    let patience = state.options.read_timeout;
    let data = if is_form(request.headers()) {
        let form = Multipart::from_request(request, &state).await;
        import.form(form.map_err(|refused| Invalid::new("body", refused.body_text()))?, patience).await?
    } else {
        import.body(request.into_body(), patience).await?
    };
    Ok(Json(ImportAnswer { success: true, data }))
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_form(headers: &HeaderMap) -> bool {
    let claimed = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    claimed.trim_start().to_ascii_lowercase().starts_with("multipart/form-data")
}

/// A file on its way onto the list.
struct Import {
    list: Suppressions,
    limit: usize,
    arrived: usize,
    lines: PhoneLines,
    people: Vec<Recipient>,
    done: Imported,
}

impl Import {
    fn new(list: Suppressions, limit: usize) -> Self {
        let (lines, people, done) = (PhoneLines::default(), Vec::new(), Imported::default());
        Self { list, limit, arrived: 0, lines, people, done }
    }

    async fn body(mut self, body: Body, patience: std::time::Duration) -> Result<Imported, ApiError> {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) =
            tokio::time::timeout(patience, chunks.next()).await.map_err(|_| ApiError::too_slow(patience))?
        {
            self.take(&chunk.map_err(|_| broken())?).await?;
        }
        self.finish().await
    }

    async fn form(
        mut self,
        mut form: Multipart,
        patience: std::time::Duration,
    ) -> Result<Imported, ApiError> {
        let slow = |_| ApiError::too_slow(patience);
        while let Some(mut field) =
            tokio::time::timeout(patience, form.next_field()).await.map_err(slow)?.map_err(|_| broken())?
        {
            if field.file_name().is_none() && field.name() != Some("file") {
                continue;
            }
            while let Some(chunk) =
                tokio::time::timeout(patience, field.chunk()).await.map_err(slow)?.map_err(|_| broken())?
            {
                self.take(&chunk).await?;
            }
            return self.finish().await;
        }
        Err(Invalid::new("file", "is missing; send the list as a file of the form").into())
    }

    async fn take(&mut self, chunk: &Bytes) -> Result<(), ApiError> {
        self.arrived += chunk.len();
        if self.arrived > self.limit {
            return Err(ApiError::too_large(self.limit));
        }
        let (people, done) = (&mut self.people, &mut self.done);
        self.lines.take(chunk, &mut |line| note(line, people, done));
        if self.people.len() >= AT_ONCE {
            self.enter().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Imported, ApiError> {
        let (people, done) = (&mut self.people, &mut self.done);
        self.lines.finish(&mut |line| note(line, people, done));
        self.enter().await?;
        Ok(self.done)
    }

    async fn enter(&mut self) -> Result<(), ApiError> {
        let entered = self.list.enter(std::mem::take(&mut self.people), Why::File, None).await?;
        self.done.added += entered.added;
        self.done.already += entered.already;
        Ok(())
    }
}

fn note(line: Line, people: &mut Vec<Recipient>, done: &mut Imported) {
    match line {
        Line::Phone(who) => people.push(who),
        Line::Wrong { line, reason } => {
            done.invalid_total += 1;
            if done.invalid.len() < MOST_WRONG {
                done.invalid.push(WrongLine { line, reason });
            }
        }
    }
}

fn broken() -> ApiError {
    Invalid::new("body", "ended before it was complete").into()
}
