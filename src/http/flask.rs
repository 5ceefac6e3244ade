//! What is common to the routes of the documented Flask application: errors are `{"error": text}`, bodies are JSON
//! objects with the content type of JSON, and an empty value counts as a missing one.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::ApiError;
use super::{AppState, body, json};

/// An error on its way to a caller of the documented application.
#[derive(Debug)]
pub(super) struct FlaskError {
    status: StatusCode,
    text: String,
}

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FlaskErrorBody {
    /// What was wrong, and what to do.
    #[schema(example = "Phone number is required")]
    error: String,
}

impl FlaskError {
    /// 400.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.into() }
    }
}

/// Whatever another part of the front end or a lower room refused, with its status.
impl<E: Into<ApiError>> From<E> for FlaskError {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { status: error.status(), text: error.details().to_owned() }
    }
}

impl IntoResponse for FlaskError {
    fn into_response(self) -> Response {
        (self.status, Json(FlaskErrorBody { error: self.text })).into_response()
    }
}

/// A JSON object.
pub(super) struct FlaskJson(pub Map<String, Value>);

impl FromRequest<AppState> for FlaskJson {
    type Rejection = FlaskError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, FlaskError> {
        let limit = state.options.json_body_limit;
        if !is_json(request.headers()) {
            body::discard(request, limit);
            return Err(FlaskError::invalid("the Content-Type of this request must be application/json"));
        }
        let arrived = body::receive(request, limit, state).await?;
        Ok(Self(json::parse(&arrived.bytes)?))
    }
}

/// `application/json`, or another type that is written in JSON (RFC 6839 §3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let claimed = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = claimed.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The one parameter of a path, percent-decoded.
pub(super) struct FlaskPath(pub String);

impl FromRequestParts<AppState> for FlaskPath {
    type Rejection = FlaskError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, FlaskError> {
        let found = Path::<String>::from_request_parts(parts, state).await;
        found.map(|Path(text)| Self(text)).map_err(|refused| FlaskError::invalid(refused.body_text()))
    }
}

/// What the query of a URL says.
pub(super) struct FlaskQuery<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for FlaskQuery<T> {
    type Rejection = FlaskError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, FlaskError> {
        let found = Query::try_from_uri(&parts.uri);
        found.map(|Query(query)| Self(query)).map_err(|refused| FlaskError::invalid(refused.body_text()))
    }
}

/// The text of a field; `None` when it is missing, null or empty.
pub(super) fn text(body: &mut Map<String, Value>, field: &str) -> Result<Option<String>, FlaskError> {
    match body.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(FlaskError::invalid(format!("{field} must be a string"))),
    }
}

/// The object of a field; `None` when it is missing, null or empty.
pub(super) fn object(
    body: &mut Map<String, Value>,
    field: &str,
) -> Result<Option<Map<String, Value>>, FlaskError> {
    match body.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object).filter(|object| !object.is_empty())),
        Some(_) => Err(FlaskError::invalid(format!("{field} must be an object"))),
    }
}

/// The texts of a field; `None` when it is missing, null or empty.
pub(super) fn texts(body: &mut Map<String, Value>, field: &str) -> Result<Option<Vec<String>>, FlaskError> {
    let wrong = || FlaskError::invalid(format!("{field} must be a list of strings"));
    match body.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let text = |item| if let Value::String(text) = item { Ok(text) } else { Err(wrong()) };
            let texts: Vec<_> = items.into_iter().map(text).collect::<Result<_, _>>()?;
            Ok(Some(texts).filter(|texts| !texts.is_empty()))
        }
        Some(_) => Err(wrong()),
    }
}
