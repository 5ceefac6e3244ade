//! `/api/numbers`: the address book of the documented Flask application.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::address_book::{self, SaveOutcome};
use crate::http::AppState;
use crate::http::flask::{
    self, ApplicationError, ApplicationErrorBody, ApplicationJson, ApplicationPath, ApplicationQuery,
};

/// The most numbers of one answer.
const MAX_NUMBERS: usize = 1000;

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
pub struct NumberResponse {
    success: bool,
    number: Number,
}

/// What was done, or not found.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberActionResponse {
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
pub struct BulkNumberChanges {
    /// Up to 10000.
    phones: Vec<String>,
    /// Keys to set; `"__DELETE__"` removes one.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// A number was saved.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberSavedResponse {
    success: bool,
    /// `created` or `recreated`.
    #[schema(example = "created")]
    action: &'static str,
    message: String,
    existed_before: bool,
}

/// Whether there is such a number.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumberExistsResponse {
    success: bool,
    exists: bool,
    phone: String,
}

/// Everything is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct NumbersClearedResponse {
    success: bool,
    deleted: u64,
    message: String,
}

/// What became of each number.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkNumbersResponse {
    success: bool,
    message: String,
    results: BulkNumberResults,
}

#[derive(Debug, Serialize, ToSchema)]
struct BulkNumberResults {
    total: usize,
    successful: usize,
    failed: usize,
    details: Vec<BulkNumberResult>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BulkNumberResult {
    phone: String,
    success: bool,
    error: Option<String>,
}

/// Which numbers to show.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NumberQuery {
    /// The `next` of the page before.
    after: Option<u64>,
    /// 1 to 1000; 1000 without it.
    limit: Option<usize>,
}

impl From<address_book::AddressBookEntry> for Number {
    fn from(number: address_book::AddressBookEntry) -> Self {
        Self {
            phone: number.phone,
            name: number.name,
            data: Some(number.data).filter(|data| !data.is_empty()),
            created_at: number.created_at.to_string(),
            updated_at: number.updated_at.to_string(),
        }
    }
}

const NUMBER_NOT_FOUND: &str = "Number not found";

/// What was done, or that there is no such number.
fn action_response(done: bool, message: String) -> Response {
    if done { Json(NumberActionResponse { success: true, message }).into_response() } else { not_found() }
}

fn not_found() -> Response {
    let told = NumberActionResponse { success: false, message: NUMBER_NOT_FOUND.to_owned() };
    (StatusCode::NOT_FOUND, Json(told)).into_response()
}

/// Shows the numbers, the latest change first.
#[utoipa::path(get, path = "/api/numbers", operation_id = "list_numbers", tag = "numbers", params(NumberQuery), responses(
    (status = 200, description = "Up to 1000 of them.", body = NumberList),
    (status = 400, description = "A parameter is wrong.", body = ApplicationErrorBody),
))]
pub async fn list(
    State(state): State<AppState>,
    ApplicationQuery(wanted): ApplicationQuery<NumberQuery>,
) -> Result<Json<NumberList>, ApplicationError> {
    let limit = wanted.limit.unwrap_or(MAX_NUMBERS);
    if !(1..=MAX_NUMBERS).contains(&limit) {
        return Err(ApplicationError::invalid(format!("limit must be 1 to {MAX_NUMBERS}")));
    }
    let listed = state.services.numbers.list(wanted.after, limit).await?;
    let numbers = listed.entries.into_iter().map(Number::from).collect();
    let next = listed.next.map(|place| place.to_string());
    Ok(Json(NumberList { success: true, numbers, total: listed.total, next }))
}

/// Saves a number; forgets what was known about it before.
#[utoipa::path(post, path = "/api/numbers", operation_id = "save_number", tag = "numbers", request_body = NewNumber,
    responses(
        (status = 201, description = "It is saved, durably.", body = NumberSavedResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
        (status = 413, description = "The name or the data is too large.", body = ApplicationErrorBody),
        (status = 503, description = "The disk is nearly full.", body = ApplicationErrorBody),
    ))]
pub async fn save(
    State(state): State<AppState>,
    ApplicationJson(mut body): ApplicationJson,
) -> Result<(StatusCode, Json<NumberSavedResponse>), ApplicationError> {
    let phone = required_phone(&mut body)?;
    let name = flask::take_text(&mut body, "name")?;
    let data = flask::take_object(&mut body, "data")?.unwrap_or_default();
    let saved = state.services.numbers.save(phone.clone(), name, data).await?;
    let (action, message) = match saved {
        SaveOutcome::Created => ("created", format!("Number {phone} added successfully")),
        SaveOutcome::Replaced => {
            ("recreated", format!("Number {phone} existed before, old record deleted and new one created"))
        }
    };
    let existed_before = saved == SaveOutcome::Replaced;
    Ok((StatusCode::CREATED, Json(NumberSavedResponse { success: true, action, message, existed_before })))
}

fn required_phone(body: &mut Map<String, Value>) -> Result<String, ApplicationError> {
    flask::take_text(body, "phone")?.ok_or_else(|| ApplicationError::invalid("Phone number is required"))
}

fn required_data(body: &mut Map<String, Value>) -> Result<Map<String, Value>, ApplicationError> {
    flask::take_object(body, "data")?.ok_or_else(|| ApplicationError::invalid("Data object is required"))
}

/// Shows one number.
#[utoipa::path(get, path = "/api/numbers/{phone}", operation_id = "get_number", tag = "numbers", responses(
    (status = 200, description = "The number.", body = NumberResponse),
    (status = 404, description = "No such number.", body = NumberActionResponse),
))]
pub async fn get(
    State(state): State<AppState>,
    ApplicationPath(phone): ApplicationPath,
) -> Result<Response, ApplicationError> {
    Ok(match state.services.numbers.get(&phone)? {
        Some(number) => Json(NumberResponse { success: true, number: number.into() }).into_response(),
        None => not_found(),
    })
}

/// Tells whether there is such a number.
#[utoipa::path(get, path = "/api/numbers/{phone}/exists", operation_id = "number_exists", tag = "numbers",
    responses((status = 200, description = "Yes or no.", body = NumberExistsResponse)))]
pub async fn exists(
    State(state): State<AppState>,
    ApplicationPath(phone): ApplicationPath,
) -> Result<Json<NumberExistsResponse>, ApplicationError> {
    let exists = state.services.numbers.get(&phone)?.is_some();
    Ok(Json(NumberExistsResponse { success: true, exists, phone }))
}

/// Lays the body over the data of a number, key by key; `"__DELETE__"` removes a key.
#[utoipa::path(patch, path = "/api/numbers/{phone}", operation_id = "change_number", tag = "numbers",
    request_body = Object, responses(
        (status = 200, description = "It is changed, durably.", body = NumberActionResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
        (status = 404, description = "No such number.", body = NumberActionResponse),
        (status = 413, description = "The data would become too large.", body = ApplicationErrorBody),
    ))]
pub async fn change(
    State(state): State<AppState>,
    ApplicationPath(phone): ApplicationPath,
    ApplicationJson(body): ApplicationJson,
) -> Result<Response, ApplicationError> {
    if body.is_empty() {
        return Err(ApplicationError::invalid("No data provided"));
    }
    apply_changes(&state, phone, body).await
}

async fn apply_changes(
    state: &AppState,
    phone: String,
    changes: Map<String, Value>,
) -> Result<Response, ApplicationError> {
    let found = state.services.numbers.change(phone.clone(), changes).await?;
    Ok(action_response(found, format!("Data for number {phone} updated successfully")))
}

/// The same, with the phone in the body.
#[utoipa::path(patch, path = "/api/numbers/update", operation_id = "update_number", tag = "numbers",
    request_body = NumberChanges, responses(
        (status = 200, description = "It is changed, durably.", body = NumberActionResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
        (status = 404, description = "No such number.", body = NumberActionResponse),
        (status = 413, description = "The data would become too large.", body = ApplicationErrorBody),
    ))]
pub async fn update(
    State(state): State<AppState>,
    ApplicationJson(mut body): ApplicationJson,
) -> Result<Response, ApplicationError> {
    let phone = required_phone(&mut body)?;
    let data = required_data(&mut body)?;
    apply_changes(&state, phone, data).await
}

/// The same for many numbers. Each stands for itself: some may be changed and others not.
#[utoipa::path(patch, path = "/api/numbers/bulk-update", operation_id = "update_numbers", tag = "numbers",
    request_body = BulkNumberChanges, responses(
        (status = 200, description = "What became of each.", body = BulkNumbersResponse),
        (status = 400, description = "The body is wrong.", body = ApplicationErrorBody),
    ))]
pub async fn bulk_update(
    State(state): State<AppState>,
    ApplicationJson(mut body): ApplicationJson,
) -> Result<Json<BulkNumbersResponse>, ApplicationError> {
    let phones = flask::take_texts(&mut body, "phones")?;
    let phones = phones.ok_or_else(|| ApplicationError::invalid("phones list is required"))?;
    let data = required_data(&mut body)?;
    let outcomes = state.services.numbers.change_all(phones.clone(), data).await?;
    let error = |outcome: Result<bool, address_book::Error>| match outcome {
        Ok(true) => None,
        Ok(false) => Some(NUMBER_NOT_FOUND.to_owned()),
        Err(refused) => Some(refused.to_string()),
    };
    let details: Vec<_> = phones
        .into_iter()
        .zip(outcomes.into_iter().map(error))
        .map(|(phone, error)| BulkNumberResult { phone, success: error.is_none(), error })
        .collect();
    let total = details.len();
    let successful = details.iter().filter(|detail| detail.success).count();
    let failed = total - successful;
    let message = format!("Bulk update completed: {successful} successful, {failed} failed");
    let results = BulkNumberResults { total, successful, failed, details };
    Ok(Json(BulkNumbersResponse { success: true, message, results }))
}

/// Forgets a number.
#[utoipa::path(delete, path = "/api/numbers/{phone}", operation_id = "delete_number", tag = "numbers", responses(
    (status = 200, description = "It is gone.", body = NumberActionResponse),
    (status = 404, description = "No such number.", body = NumberActionResponse),
))]
pub async fn delete(
    State(state): State<AppState>,
    ApplicationPath(phone): ApplicationPath,
) -> Result<Response, ApplicationError> {
    let found = state.services.numbers.delete(phone.clone()).await?;
    Ok(action_response(found, format!("Number {phone} deleted successfully")))
}

/// Forgets every number.
#[utoipa::path(post, path = "/api/numbers/clear", operation_id = "clear_numbers", tag = "numbers", responses(
    (status = 200, description = "They are gone.", body = NumbersClearedResponse),
))]
pub async fn clear(State(state): State<AppState>) -> Result<Json<NumbersClearedResponse>, ApplicationError> {
    let deleted = state.services.numbers.clear().await?;
    Ok(Json(NumbersClearedResponse { success: true, deleted, message: format!("Deleted {deleted} numbers") }))
}
