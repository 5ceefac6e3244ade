//! Errors of `/api`: `error` is one text, in Spanish where the documents give it.
//!
//! Handlers under `/api` return an [`ApplicationError`]. [`rewrite_errors`] converts the errors of the layers around
//! them (no key, too large, no such route).

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::is_application_path;
use super::texts::SEND_ERROR_PREFIX;
use crate::http::error::{ApiError, ErrorParts, retry_after_seconds};
use crate::{address_book, instance, relay};
use relevo_domain::{ErrorKind, Failure, FailureKind, MessageId, ValidationError};

/// An error of a request under `/api`.
#[derive(Debug)]
pub(in crate::http) struct ApplicationError(Box<ApplicationErrorParts>);

#[derive(Debug)]
struct ApplicationErrorParts {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: ApplicationErrorBody,
}

/// The body of every error response under `/api`. The documents promise `error`, and `success` where a message was
/// not sent.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(in crate::http) struct ApplicationErrorBody {
    /// `false` where a message was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
    /// What is wrong. If WhatsApp rejected the message with a code, the error object of the Graph API, as a JSON
    /// text.
    #[schema(example = "Faltan parámetros: phone y message son requeridos")]
    error: Cow<'static, str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Cow<'static, str>>,
    /// The kind of error, for programs.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// The field that is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// WhatsApp's error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_code: Option<i64>,
    /// The message that failed: see `/api/task-status/{task_id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// The status of that message.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

impl ApplicationError {
    /// An error with only a text, as the documents show it.
    pub fn new(status: StatusCode, error: impl Into<Cow<'static, str>>) -> Self {
        let body = ApplicationErrorBody { error: error.into(), ..ApplicationErrorBody::default() };
        Self(Box::new(ApplicationErrorParts { status, retry_after: None, body }))
    }

    /// 400 with a documented text.
    pub fn invalid(error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 503; `details` name what is missing.
    pub fn unavailable(details: impl Into<Cow<'static, str>>) -> Self {
        ApiError::new(ErrorKind::Unavailable, details).into()
    }

    /// A message that WhatsApp rejected, or that could not reach WhatsApp.
    pub fn from_failure(failure: &Failure) -> Self {
        let mut application_error = Self::from(ApiError::from_failure(failure));
        // The documented status of every failure that a retry would not resolve.
        if matches!(
            failure.kind,
            FailureKind::Permanent | FailureKind::LoggedOut | FailureKind::AccountBlocked
        ) {
            application_error.0.status = StatusCode::BAD_REQUEST;
        }
        application_error.0.body.error = upstream_error_text(failure).into();
        application_error.0.body.details = Some(failure.message.clone().into());
        application_error.with_success_false()
    }

    /// Adds `success: false`.
    pub fn with_success_false(mut self) -> Self {
        self.0.body.success = Some(false);
        self
    }

    /// Adds the documented prefix of a message that was not sent.
    pub fn with_send_prefix(mut self) -> Self {
        if self.0.status == StatusCode::BAD_REQUEST {
            self.0.body.error = format!("{SEND_ERROR_PREFIX}: {}", self.0.body.error).into();
        }
        self.with_success_false()
    }

    /// Prefixes the field with the part of the request that it belongs to.
    pub fn with_field_prefix(mut self, place: &str) -> Self {
        let body = &mut self.0.body;
        if let Some(field) = &mut body.field {
            body.error = body.error.replacen(field.as_str(), &format!("{place}.{field}"), 1).into();
            *field = format!("{place}.{field}");
        }
        self
    }

    /// Adds the id of the task that continues.
    pub fn with_task_id(mut self, id: Uuid) -> Self {
        self.0.body.task_id = Some(id.to_string());
        self
    }

    /// Adds the message that failed, and its status.
    pub fn with_message(mut self, id: MessageId, status: &'static str) -> Self {
        self.0.body.task_id = Some(id.correlation_id().to_string());
        self.0.body.message_id = Some(id.to_string());
        self.0.body.status = Some(status);
        self
    }
}

/// The `error` text of a message that WhatsApp rejected: clients of the original parse Meta's error object from it.
pub(in crate::http) fn upstream_error_text(failure: &Failure) -> String {
    let text = &failure.message;
    match failure.code {
        None => format!("{SEND_ERROR_PREFIX}: {text}"),
        Some(code) => json!({ "error": {
            "message": format!("(#{code}) {text}"),
            "type": "OAuthException",
            "code": code,
            "error_data": { "messaging_product": "whatsapp", "details": text },
        }})
        .to_string(),
    }
}

impl From<ValidationError> for ApplicationError {
    fn from(invalid: ValidationError) -> Self {
        ApiError::from(invalid).into()
    }
}

impl From<instance::Error> for ApplicationError {
    fn from(error: instance::Error) -> Self {
        match error {
            // Not an error of the caller: the account exists, and an operator disconnected it.
            instance::Error::NotConnected { .. } => Self::unavailable(error.to_string()),
            error => ApiError::from(error).into(),
        }
    }
}

impl From<address_book::Error> for ApplicationError {
    fn from(error: address_book::Error) -> Self {
        ApiError::from(error).into()
    }
}

impl From<relay::Error> for ApplicationError {
    fn from(error: relay::Error) -> Self {
        ApiError::from(error).into()
    }
}

impl From<ApiError> for ApplicationError {
    fn from(error: ApiError) -> Self {
        let ErrorParts { status, title, kind, details, field, provider_code, retry_after, message } =
            error.into_parts();
        // Only the details of an invalid request are complete without the title.
        let (error, details) = match status {
            StatusCode::BAD_REQUEST => (details, None),
            _ => (Cow::Borrowed(title), Some(details).filter(|details| !details.is_empty())),
        };
        let kind = Some(kind);
        let body = ApplicationErrorBody {
            error,
            details,
            kind,
            field,
            provider_code,
            ..ApplicationErrorBody::default()
        };
        let application_error = Self(Box::new(ApplicationErrorParts { status, retry_after, body }));
        match message {
            Some((id, status)) => application_error.with_message(id, status),
            None => application_error,
        }
    }
}

impl IntoResponse for ApplicationError {
    fn into_response(self) -> Response {
        let ApplicationErrorParts { status, retry_after, body } = *self.0;
        let mut response = (status, Json(body)).into_response();
        if let Some(pause) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(pause)));
        }
        response
    }
}

/// Middleware: converts an [`ApiError`] of a layer or an extractor into the form of `/api`.
pub(in crate::http) async fn rewrite_errors(request: Request, next: Next) -> Response {
    let is_application = is_application_path(request.uri().path());
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>().filter(|_| is_application) else {
        return response;
    };
    let mut converted = ApplicationError::from(error).into_response();
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            converted.headers_mut().insert(name, value.clone());
        }
    }
    converted
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use relevo_domain::FailureScope;
    use serde_json::Value;

    async fn render(application_error: ApplicationError) -> (u16, Value) {
        let response = application_error.into_response();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn documented_error_has_only_its_text() {
        let (status, body) = render(ApplicationError::invalid("Se requiere el campo 'phone'")).await;
        assert_eq!((status, body), (400, json!({ "error": "Se requiere el campo 'phone'" })));
    }

    #[tokio::test]
    async fn rejected_message_error_holds_the_graph_error() {
        let failure = Failure::permanent("Message undeliverable").with_code(131_026);
        let (status, body) = render(ApplicationError::from_failure(&failure)).await;
        assert_eq!((status, &body["success"]), (400, &json!(false)));
        let graph: Value = serde_json::from_str(body["error"].as_str().unwrap()).unwrap();
        assert_eq!(graph["error"]["code"], 131_026);
        assert_eq!(graph["error"]["message"], "(#131026) Message undeliverable");
        let away = Failure::new(FailureKind::LoggedOut, FailureScope::Number, "token expired").with_code(190);
        assert_eq!(render(ApplicationError::from_failure(&away)).await.0, 400);
        let (status, body) = render(ApplicationError::from_failure(&Failure::transient("no route"))).await;
        assert_eq!((status, &body["error"]), (503, &json!("Error enviando mensaje: no route")));
    }
}
