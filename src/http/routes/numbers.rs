//! `/api/numbers`: the address book of the documented Flask application.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::contacts::{self, Saved};
use crate::http::AppState;
use crate::http::flask::{self, FlaskJson, FlaskPath, FlaskQuery, Refusal, RefusalBody};

/// The most numbers of one answer.
const MOST: usize = 1000;

/// A number of the address book.
#[derive(Debug, Serialize, ToSchema)]
pub struct Number {
    #[schema(example = "573123456789")]
    phone: String,
    #[schema(example = "Juan Pérez")]
    name: Option<String>,
    /// Null when there is none.
    #[schema(value_type = Option<Object>)]
    data: Option<Map<String, Value>>,
    #[schema(example = "2025-01-16T10:00:00.000Z")]
    created_at: String,
    updated_at: String,
}

/// Numbers, the latest change first.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberList {
    success: bool,
    numbers: Vec<Number>,
    /// How many there are in all.
    total: u64,
    /// Give it as `after` to go on. Not there on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// One number.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberAnswer {
    success: bool,
    number: Number,
}

/// What was done, or not found.
#[derive(Debug, Serialize, ToSchema)]
pub struct Told {
    success: bool,
    #[schema(example = "Number not found")]
    message: String,
}

/// What is said about a number.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the body, whose refusals have words of their own")]
pub struct NewNumber {
    /// Any text of up to 128 bytes; it is looked up as it is written here.
    #[schema(example = "573123456789")]
    phone: String,
    name: Option<String>,
    /// Up to 64 KiB of JSON.
    #[schema(value_type = Option<Object>)]
    data: Option<Map<String, Value>>,
}

/// What becomes of the data of a number.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the body, whose refusals have words of their own")]
pub struct NumberChanges {
    phone: String,
    /// Keys to set; `"__DELETE__"` removes one.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// What becomes of the data of many numbers.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the body, whose refusals have words of their own")]
pub struct BulkChanges {
    /// Up to 10000.
    phones: Vec<String>,
    /// Keys to set; `"__DELETE__"` removes one.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// A number was saved.
#[derive(Debug, Serialize, ToSchema)]
pub struct SavedAnswer {
    success: bool,
    /// `created` or `recreated`.
    #[schema(example = "created")]
    action: &'static str,
    message: String,
    existed_before: bool,
}

/// Whether there is such a number.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExistsAnswer {
    success: bool,
    exists: bool,
    phone: String,
}

/// Everything is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClearedAnswer {
    success: bool,
    deleted: u64,
    message: String,
}

/// What became of each number.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkAnswer {
    success: bool,
    message: String,
    results: BulkResults,
}

#[derive(Debug, Serialize, ToSchema)]
struct BulkResults {
    total: usize,
    successful: usize,
    failed: usize,
    details: Vec<BulkDetail>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BulkDetail {
    phone: String,
    success: bool,
    error: Option<String>,
}

/// Which numbers to show.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// The `next` of the page before.
    after: Option<u64>,
    /// 1 to 1000; 1000 without it.
    limit: Option<usize>,
}

impl From<contacts::Number> for Number {
    fn from(number: contacts::Number) -> Self {
        Self {
            phone: number.phone,
            name: number.name,
            data: Some(number.data).filter(|data| !data.is_empty()),
            created_at: number.created_at.to_string(),
            updated_at: number.updated_at.to_string(),
        }
    }
}

const NOT_FOUND: &str = "Number not found";

/// What was done, or that there is no such number.
fn told(done: bool, message: String) -> Response {
    if done { Json(Told { success: true, message }).into_response() } else { not_found() }
}

fn not_found() -> Response {
    let told = Told { success: false, message: NOT_FOUND.to_owned() };
    (StatusCode::NOT_FOUND, Json(told)).into_response()
}

/// Shows the numbers, the latest change first.
#[utoipa::path(get, path = "/api/numbers", operation_id = "list_numbers", tag = "numbers", params(Wanted), responses(
    (status = 200, description = "Up to 1000 of them.", body = NumberList),
    (status = 400, description = "A parameter is wrong.", body = RefusalBody),
))]
pub async fn list(
    State(state): State<AppState>,
    FlaskQuery(wanted): FlaskQuery<Wanted>,
) -> Result<Json<NumberList>, Refusal> {
    let limit = wanted.limit.unwrap_or(MOST);
    if !(1..=MOST).contains(&limit) {
        return Err(Refusal::invalid(format!("limit must be 1 to {MOST}")));
    }
    let listed = state.services.numbers.list(wanted.after, limit).await?;
    let numbers = listed.numbers.into_iter().map(Number::from).collect();
    let next = listed.next.map(|place| place.to_string());
    Ok(Json(NumberList { success: true, numbers, total: listed.total, next }))
}

/// Saves a number; forgets what was known about it before.
#[utoipa::path(post, path = "/api/numbers", operation_id = "save_number", tag = "numbers", request_body = NewNumber,
    responses(
        (status = 201, description = "It is saved, durably.", body = SavedAnswer),
        (status = 400, description = "The body is wrong.", body = RefusalBody),
        (status = 413, description = "The name or the data is too large.", body = RefusalBody),
        (status = 503, description = "The disk is nearly full.", body = RefusalBody),
    ))]
pub async fn save(
    State(state): State<AppState>,
    FlaskJson(mut body): FlaskJson,
) -> Result<(StatusCode, Json<SavedAnswer>), Refusal> {
    let phone = phone_of(&mut body)?;
    let name = flask::text(&mut body, "name")?;
    let data = flask::object(&mut body, "data")?.unwrap_or_default();
    let saved = state.services.numbers.save(phone.clone(), name, data).await?;
    let (action, message) = match saved {
        Saved::Created => ("created", format!("Number {phone} added successfully")),
        Saved::Recreated => {
            ("recreated", format!("Number {phone} existed before, old record deleted and new one created"))
        }
    };
    let existed_before = saved == Saved::Recreated;
    Ok((StatusCode::CREATED, Json(SavedAnswer { success: true, action, message, existed_before })))
}

fn phone_of(body: &mut Map<String, Value>) -> Result<String, Refusal> {
    flask::text(body, "phone")?.ok_or_else(|| Refusal::invalid("Phone number is required"))
}

fn data_of(body: &mut Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
    flask::object(body, "data")?.ok_or_else(|| Refusal::invalid("Data object is required"))
}

/// Shows one number.
#[utoipa::path(get, path = "/api/numbers/{phone}", operation_id = "get_number", tag = "numbers", responses(
    (status = 200, description = "The number.", body = NumberAnswer),
    (status = 404, description = "No such number.", body = Told),
))]
pub async fn get(State(state): State<AppState>, FlaskPath(phone): FlaskPath) -> Result<Response, Refusal> {
    Ok(match state.services.numbers.get(&phone)? {
        Some(number) => Json(NumberAnswer { success: true, number: number.into() }).into_response(),
        None => not_found(),
    })
}

/// Tells whether there is such a number.
#[utoipa::path(get, path = "/api/numbers/{phone}/exists", operation_id = "number_exists", tag = "numbers",
    responses((status = 200, description = "Yes or no.", body = ExistsAnswer)))]
pub async fn exists(
    State(state): State<AppState>,
    FlaskPath(phone): FlaskPath,
) -> Result<Json<ExistsAnswer>, Refusal> {
    let exists = state.services.numbers.get(&phone)?.is_some();
    Ok(Json(ExistsAnswer { success: true, exists, phone }))
}

/// Lays the body over the data of a number, key by key; `"__DELETE__"` removes a key.
#[utoipa::path(patch, path = "/api/numbers/{phone}", operation_id = "change_number", tag = "numbers",
    request_body = Object, responses(
        (status = 200, description = "It is changed, durably.", body = Told),
        (status = 400, description = "The body is wrong.", body = RefusalBody),
        (status = 404, description = "No such number.", body = Told),
        (status = 413, description = "The data would become too large.", body = RefusalBody),
    ))]
pub async fn change(
    State(state): State<AppState>,
    FlaskPath(phone): FlaskPath,
    FlaskJson(body): FlaskJson,
) -> Result<Response, Refusal> {
    if body.is_empty() {
        return Err(Refusal::invalid("No data provided"));
    }
    changed(&state, phone, body).await
}

async fn changed(state: &AppState, phone: String, changes: Map<String, Value>) -> Result<Response, Refusal> {
    let found = state.services.numbers.change(phone.clone(), changes).await?;
    Ok(told(found, format!("Data for number {phone} updated successfully")))
}

/// The same, with the phone in the body.
#[utoipa::path(patch, path = "/api/numbers/update", operation_id = "update_number", tag = "numbers",
    request_body = NumberChanges, responses(
        (status = 200, description = "It is changed, durably.", body = Told),
        (status = 400, description = "The body is wrong.", body = RefusalBody),
        (status = 404, description = "No such number.", body = Told),
        (status = 413, description = "The data would become too large.", body = RefusalBody),
    ))]
pub async fn update(
    State(state): State<AppState>,
    FlaskJson(mut body): FlaskJson,
) -> Result<Response, Refusal> {
    let phone = phone_of(&mut body)?;
    let data = data_of(&mut body)?;
    changed(&state, phone, data).await
}

/// The same for many numbers. Each stands for itself: some may be changed and others not.
#[utoipa::path(patch, path = "/api/numbers/bulk-update", operation_id = "update_numbers", tag = "numbers",
    request_body = BulkChanges, responses(
        (status = 200, description = "What became of each.", body = BulkAnswer),
        (status = 400, description = "The body is wrong.", body = RefusalBody),
    ))]
pub async fn bulk_update(
    State(state): State<AppState>,
    FlaskJson(mut body): FlaskJson,
) -> Result<Json<BulkAnswer>, Refusal> {
    let phones = flask::texts(&mut body, "phones")?;
    let phones = phones.ok_or_else(|| Refusal::invalid("phones list is required"))?;
    let data = data_of(&mut body)?;
    let outcomes = state.services.numbers.change_all(phones.clone(), data).await?;
    let error = |outcome: Result<bool, contacts::Error>| match outcome {
        Ok(true) => None,
        Ok(false) => Some(NOT_FOUND.to_owned()),
        Err(refused) => Some(refused.to_string()),
    };
    let details: Vec<_> = phones
        .into_iter()
        .zip(outcomes.into_iter().map(error))
        .map(|(phone, error)| BulkDetail { phone, success: error.is_none(), error })
        .collect();
    let total = details.len();
    let successful = details.iter().filter(|detail| detail.success).count();
    let failed = total - successful;
    let message = format!("Bulk update completed: {successful} successful, {failed} failed");
    let results = BulkResults { total, successful, failed, details };
    Ok(Json(BulkAnswer { success: true, message, results }))
}

/// Forgets a number.
#[utoipa::path(delete, path = "/api/numbers/{phone}", operation_id = "delete_number", tag = "numbers", responses(
    (status = 200, description = "It is gone.", body = Told),
    (status = 404, description = "No such number.", body = Told),
))]
pub async fn delete(State(state): State<AppState>, FlaskPath(phone): FlaskPath) -> Result<Response, Refusal> {
    let found = state.services.numbers.delete(phone.clone()).await?;
    Ok(told(found, format!("Number {phone} deleted successfully")))
}

/// Forgets every number.
#[utoipa::path(post, path = "/api/numbers/clear", operation_id = "clear_numbers", tag = "numbers", responses(
    (status = 200, description = "They are gone.", body = ClearedAnswer),
))]
pub async fn clear(State(state): State<AppState>) -> Result<Json<ClearedAnswer>, Refusal> {
    let deleted = state.services.numbers.clear().await?;
    Ok(Json(ClearedAnswer { success: true, deleted, message: format!("Deleted {deleted} numbers") }))
}
