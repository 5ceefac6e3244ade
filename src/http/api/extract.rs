//! Extractors whose rejections have the form of `/api`.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::error::ApplicationError;
use crate::http::{AppState, body, json, parameter};

/// A JSON object.
pub(in crate::http) struct ApplicationJson(pub Map<String, Value>);

impl FromRequest<AppState> for ApplicationJson {
    type Rejection = ApplicationError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApplicationError> {
        let limit = state.options.json_body_limit;
        let received = body::receive_body(request, limit, state).await?;
        Ok(Self(json::parse(&received.bytes)?))
    }
}

/// The `phone` of a path, percent-decoded.
pub(in crate::http) struct PhonePath(pub String);

impl FromRequestParts<AppState> for PhonePath {
    type Rejection = ApplicationError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApplicationError> {
        let found = Path::<String>::from_request_parts(parts, state).await;
        found
            .map(|Path(text)| Self(text))
            .map_err(|rejection| ApplicationError::invalid(rejection.body_text()))
    }
}

impl IntoParams for PhonePath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path("phone", "The phone, as it is written on the list that the route is about.")]
    }
}

/// The query of a URL.
pub(in crate::http) struct ApplicationQuery<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for ApplicationQuery<T> {
    type Rejection = ApplicationError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApplicationError> {
        let found = Query::try_from_uri(&parts.uri);
        found
            .map(|Query(query)| Self(query))
            .map_err(|rejection| ApplicationError::invalid(rejection.body_text()))
    }
}

/// The text of a field; `None` when it is missing, null or empty.
///
/// # Errors
///
/// 400 when the field is not a string.
pub(in crate::http) fn take_text(
    body: &mut Map<String, Value>,
    field: &str,
) -> Result<Option<String>, ApplicationError> {
    match body.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(ApplicationError::invalid(format!("{field} must be a string"))),
    }
}

/// The object of a field; `None` when it is missing, null or empty.
///
/// # Errors
///
/// 400 when the field is not an object.
pub(in crate::http) fn take_object(
    body: &mut Map<String, Value>,
    field: &str,
) -> Result<Option<Map<String, Value>>, ApplicationError> {
    match body.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object).filter(|object| !object.is_empty())),
        Some(_) => Err(ApplicationError::invalid(format!("{field} must be an object"))),
    }
}

/// The texts of a field; `None` when it is missing, null or empty.
///
/// # Errors
///
/// 400 when the field is not a list of strings.
pub(in crate::http) fn take_texts(
    body: &mut Map<String, Value>,
    field: &str,
) -> Result<Option<Vec<String>>, ApplicationError> {
    let wrong = || ApplicationError::invalid(format!("{field} must be a list of strings"));
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
