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
use crate::{contacts, instance, relay};
use relevo_domain::{ErrorKind, Failure, FailureKind, MessageId, ValidationError};

/// A request that is not done, in the form of `/api`.
#[derive(Debug)]
pub(in crate::http) struct ApplicationError(Box<ApplicationErrorParts>);

#[derive(Debug)]
struct ApplicationErrorParts {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: ApplicationErrorBody,
}

/// The body of every answer under `/api` that is not a success. The documents promise `error`, and `success` where
/// a message was not sent.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(in crate::http) struct ApplicationErrorBody {
    /// `false` where a message was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
    /// What is wrong. Where WhatsApp refused with a code, its answer as a text of JSON.
    #[schema(example = "Faltan parámetros: phone y message son requeridos")]
    error: Cow<'static, str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Cow<'static, str>>,
    /// What kind of error it is, for programs.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// WhatsApp's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_code: Option<i64>,
    /// The message that met the error: ask for it at `/api/task-status/{task_id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// Where that message stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

impl ApplicationError {
    /// One text and nothing beside it, as the documents show it.
    pub fn new(status: StatusCode, error: impl Into<Cow<'static, str>>) -> Self {
        let body = ApplicationErrorBody { error: error.into(), ..ApplicationErrorBody::default() };
        Self(Box::new(ApplicationErrorParts { status, retry_after: None, body }))
    }

    /// 400 with a documented text.
    pub fn invalid(error: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 503: `details` say what is missing.
    pub fn unavailable(details: impl Into<Cow<'static, str>>) -> Self {
        ApiError::new(ErrorKind::Unavailable, details).into()
    }

    /// WhatsApp, or the way to it, said no to a message.
    pub fn from_failure(failure: &Failure) -> Self {
        let mut refusal = Self::from(ApiError::from_failure(failure));
        // The documented answer, whatever was wrong, unless coming back later helps.
        if matches!(
            failure.kind,
            FailureKind::Permanent | FailureKind::LoggedOut | FailureKind::AccountBlocked
        ) {
            refusal.0.status = StatusCode::BAD_REQUEST;
        }
        refusal.0.body.error = upstream_error_text(failure).into();
        refusal.0.body.details = Some(failure.message.clone().into());
        refusal.with_success_false()
    }

    /// Says `success: false` beside the text.
    pub fn with_success_false(mut self) -> Self {
        self.0.body.success = Some(false);
        self
    }

    /// A message that was not sent for this reason, in the documented words.
    pub fn with_send_prefix(mut self) -> Self {
        if self.0.status == StatusCode::BAD_REQUEST {
            self.0.body.error = format!("{SEND_ERROR_PREFIX}: {}", self.0.body.error).into();
        }
        self.with_success_false()
    }

    /// Names the part of the request that the field belongs to.
    pub fn with_field_prefix(mut self, place: &str) -> Self {
        let body = &mut self.0.body;
        if let Some(field) = &mut body.field {
            body.error = body.error.replacen(field.as_str(), &format!("{place}.{field}"), 1).into();
            *field = format!("{place}.{field}");
        }
        self
    }

    /// Names the task that goes on.
    pub fn with_task_id(mut self, id: Uuid) -> Self {
        self.0.body.task_id = Some(id.to_string());
        self
    }

    /// Names the message that met the error, and where it stands.
    pub fn with_message(mut self, id: MessageId, status: &'static str) -> Self {
        self.0.body.task_id = Some(id.correlation_id().to_string());
        self.0.body.message_id = Some(id.to_string());
        self.0.body.status = Some(status);
        self
    }
}

/// What `error` says of a message that WhatsApp refused: clients of the original read Meta's answer out of it.
pub(in crate::http) fn upstream_error_text(failure: &Failure) -> String {
    let words = &failure.message;
    match failure.code {
        None => format!("{SEND_ERROR_PREFIX}: {words}"),
        Some(code) => json!({ "error": {
            "message": format!("(#{code}) {words}"),
            "type": "OAuthException",
            "code": code,
            "error_data": { "messaging_product": "whatsapp", "details": words },
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
            // Not the caller's mistake: it asked for an account that is there and is kept away.
            instance::Error::NotConnected { .. } => Self::unavailable(error.to_string()),
            error => ApiError::from(error).into(),
        }
    }
}

impl From<contacts::Error> for ApplicationError {
    fn from(error: contacts::Error) -> Self {
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
        // Only of a wrong request do the details stand for themselves.
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
        let refusal = Self(Box::new(ApplicationErrorParts { status, retry_after, body }));
        match message {
            Some((id, status)) => refusal.with_message(id, status),
            None => refusal,
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

/// Words the node's own errors as clients of `/api` expect them.
pub(in crate::http) async fn rewrite_errors(request: Request, next: Next) -> Response {
    let spoken = is_application_path(request.uri().path());
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>().filter(|_| spoken) else {
        return response;
    };
    let mut worded = ApplicationError::from(error).into_response();
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            worded.headers_mut().insert(name, value.clone());
        }
    }
    worded
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use relevo_domain::FailureScope;
    use serde_json::Value;

    async fn render(refusal: ApplicationError) -> (u16, Value) {
        let response = refusal.into_response();
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
