//! The form of every error response, and the status code of every kind of error.

mod conversions;

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use relevo_domain::{ErrorKind, Failure, FailureKind, MessageId};

/// An error of a request. It is also an extension of its response, so that a layer can convert it into another form.
#[derive(Debug, Clone)]
pub(super) struct ApiError(Box<ErrorParts>);

/// The content of an error response.
#[derive(Debug, Clone)]
pub(super) struct ErrorParts {
    pub status: StatusCode,
    /// The documented title of this kind of error.
    pub title: &'static str,
    /// The type of the error, for programs.
    pub kind: &'static str,
    pub details: Cow<'static, str>,
    pub field: Option<String>,
    pub provider_code: Option<i64>,
    pub retry_after: Option<Duration>,
    /// The message in the ledger that failed, and its status.
    pub message: Option<(MessageId, &'static str)>,
}

/// The body of every error response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// Always `false`.
    #[schema(example = false)]
    success: bool,
    error: ErrorDetail,
    /// The message that the error is about, if it is in the ledger: see `…/messages/{message_id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    /// The status of that message.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// The HTTP status code.
    #[schema(example = 400)]
    code: u16,
    /// The kind of error, as a title.
    #[schema(example = "Solicitud inválida")]
    message: &'static str,
    /// What was wrong, where, and what to do.
    #[serde(skip_serializing_if = "str::is_empty")]
    details: Cow<'static, str>,
    /// The kind of error, for programs.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request")]
    kind: &'static str,
    /// The field of the request that is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// WhatsApp's error code, if WhatsApp rejected the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_code: Option<i64>,
}

/// Status code, title and type of every kind of error.
fn status_of_kind(kind: ErrorKind) -> (StatusCode, &'static str, &'static str) {
    match kind {
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "Solicitud inválida", "invalid_request"),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "No encontrado", "not_found"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "Conflicto", "conflict"),
        ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Solicitud demasiado grande", "too_large"),
        ErrorKind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "No soportado", "unsupported"),
        ErrorKind::Throttled(_) => {
            (StatusCode::TOO_MANY_REQUESTS, "Demasiadas solicitudes, intente más tarde", "throttled")
        }
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Servicio no disponible", "unavailable"),
        ErrorKind::Rejected => (StatusCode::UNPROCESSABLE_ENTITY, "WhatsApp rechazó el mensaje", "rejected"),
        ErrorKind::Ambiguous => (StatusCode::GATEWAY_TIMEOUT, "Resultado desconocido", "ambiguous"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Error interno del servidor", "internal"),
    }
}

impl ApiError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, details: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::from_status(status_of_kind(kind), details);
        if let ErrorKind::Throttled(pause) = kind {
            error.0.retry_after = Some(pause);
        }
        error
    }

    fn from_status(
        (status, title, kind): (StatusCode, &'static str, &'static str),
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        let details = details.into();
        let (field, provider_code, retry_after, message) = (None, None, None, None);
        Self(Box::new(ErrorParts {
            status,
            title,
            kind,
            details,
            field,
            provider_code,
            retry_after,
            message,
        }))
    }

    /// A failure inside the node: the cause is logged and not shown to the caller.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error; request failed");
        Self::new(ErrorKind::Internal, "the cause is in the node's log")
    }

    /// A handler panicked.
    pub fn handler_panicked() -> Self {
        Self::new(ErrorKind::Internal, "the handler failed; the cause is in the node's log")
    }

    /// An error of a core module, by its kind.
    fn from_kind(kind: ErrorKind, cause: &dyn std::fmt::Display) -> Self {
        match kind {
            ErrorKind::Internal => Self::internal(cause),
            kind => Self::new(kind, cause.to_string()),
        }
    }

    /// 401: the API key is missing or wrong. No other error is a 401.
    pub fn unauthorized() -> Self {
        let parts = (StatusCode::UNAUTHORIZED, "No autorizado", "unauthorized");
        Self::from_status(
            parts,
            "Autenticación inválida o faltante: send the key as X-API-Key or as a bearer token",
        )
    }

    /// 403.
    pub fn forbidden(details: impl Into<Cow<'static, str>>) -> Self {
        Self::from_status((StatusCode::FORBIDDEN, "Prohibido", "forbidden"), details)
    }

    /// 405; the router adds `Allow`.
    pub fn method_not_allowed() -> Self {
        let parts = (StatusCode::METHOD_NOT_ALLOWED, "Método no permitido", "method_not_allowed");
        Self::from_status(parts, "this path exists, but not with this method; see the Allow header")
    }

    /// 410: it existed and cannot be restored.
    fn gone(details: impl Into<Cow<'static, str>>) -> Self {
        Self::from_status((StatusCode::GONE, "Ya no disponible", "gone"), details)
    }

    /// 408: the request did not arrive in time.
    pub fn request_timeout(limit: Duration) -> Self {
        let parts = (StatusCode::REQUEST_TIMEOUT, "Tiempo de espera agotado", "timeout");
        Self::from_status(parts, format!("the body did not arrive within {} s", limit.as_secs()))
    }

    /// 408: no QR code is available yet.
    fn qr_timeout(cause: &dyn std::fmt::Display) -> Self {
        let title = "Timeout esperando código QR. Intenta nuevamente en unos segundos.";
        Self::from_status((StatusCode::REQUEST_TIMEOUT, title, "timeout"), cause.to_string())
    }

    /// 413: the body is larger than `limit` bytes.
    pub fn payload_too_large(limit: usize) -> Self {
        Self::new(ErrorKind::TooLarge, format!("the body of this request may have {limit} bytes at most"))
    }

    /// 404: no instance has this name.
    pub fn unknown_instance(name: &str) -> Self {
        let details = format!("no instance is called {name:?}; create it with POST /instances");
        Self::new(ErrorKind::NotFound, details).with_title("Instancia no encontrada")
    }

    /// The error of a message that was certainly not sent, by its failure.
    pub fn from_failure(failure: &Failure) -> Self {
        let kind = match failure.kind {
            FailureKind::Permanent => ErrorKind::Rejected,
            FailureKind::Transient { .. } => ErrorKind::Unavailable,
            FailureKind::Throttled { retry_after } | FailureKind::Deferred { retry_after } => {
                ErrorKind::Throttled(retry_after)
            }
            FailureKind::Ambiguous => ErrorKind::Ambiguous,
            FailureKind::LoggedOut => {
                return Self::account_failure("Instancia no autenticada", "logged_out", failure);
            }
            FailureKind::AccountBlocked => {
                return Self::account_failure("Cuenta de WhatsApp bloqueada", "account_blocked", failure);
            }
        };
        Self::new(kind, failure.message.clone()).with_provider_code(failure.code)
    }

    /// 424: WhatsApp does not accept the instance's account. A 401 would be about the API key.
    fn account_failure(title: &'static str, kind: &'static str, failure: &Failure) -> Self {
        Self::from_status((StatusCode::FAILED_DEPENDENCY, title, kind), failure.message.clone())
            .with_provider_code(failure.code)
    }

    fn with_provider_code(mut self, code: Option<i64>) -> Self {
        self.0.provider_code = code;
        self
    }

    fn with_title(mut self, title: &'static str) -> Self {
        self.0.title = title;
        self
    }

    /// Adds the field that is invalid.
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Adds when the caller may try again.
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    /// Adds the message in the ledger that failed, and its status.
    pub fn with_message(mut self, id: MessageId, status: &'static str) -> Self {
        self.0.message = Some((id, status));
        self
    }

    /// The content of the error.
    pub fn into_parts(self) -> ErrorParts {
        *self.0
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    #[cfg(test)]
    pub fn details(&self) -> &str {
        &self.0.details
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = self.clone();
        let answer = *self.0;
        let (id, status) = answer.message.unzip();
        let body = ErrorBody {
            success: false,
            error: ErrorDetail {
                code: answer.status.as_u16(),
                message: answer.title,
                details: answer.details,
                kind: answer.kind,
                field: answer.field,
                provider_code: answer.provider_code,
            },
            message_id: id.map(|id| id.to_string()),
            correlation_id: id.map(|id| id.correlation_id().to_string()),
            status,
        };
        let mut response = (answer.status, Json(body)).into_response();
        response.extensions_mut().insert(error);
        if let Some(pause) = answer.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(pause)));
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whole seconds, at least one: `Retry-After: 0` would cause a retry storm.
pub(super) fn retry_after_seconds(pause: Duration) -> u64 {
    (pause.as_secs() + u64::from(pause.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;
    use relevo_domain::{Class, FailureScope, InstanceNumber, Timestamp, ValidationError};

    async fn render(error: ApiError) -> (StatusCode, Option<String>, Value) {
        let response = error.into_response();
        let retry = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        let status = response.status();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn error_body_has_the_documented_form() {
        let (status, _, body) = render(ValidationError::new("phone", "is missing").into()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let error = json!({
            "code": 400, "message": "Solicitud inválida", "details": "phone: is missing",
            "type": "invalid_request", "field": "phone",
        });
        assert_eq!(body, json!({ "success": false, "error": error }));
    }

    #[tokio::test]
    async fn retry_after_is_whole_seconds_and_never_zero() {
        for (pause, header) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let throttled = ErrorKind::Throttled(Duration::from_millis(pause));
            let (status, retry, _) = render(ApiError::new(throttled, "slow down")).await;
            assert_eq!((status, retry.as_deref()), (StatusCode::TOO_MANY_REQUESTS, Some(header)));
        }
    }

    #[tokio::test]
    async fn internal_cause_is_not_exposed() {
        let (status, _, body) = render(ApiError::from_kind(ErrorKind::Internal, &"/secret/path")).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn account_failure_is_a_424_and_names_the_message() {
        let id = MessageId::new(Timestamp(1), 0, InstanceNumber::FIRST, Class::Transactional, 7);
        for kind in [FailureKind::LoggedOut, FailureKind::AccountBlocked] {
            let failure = Failure::new(kind, FailureScope::Number, "token expired").with_code(190);
            let (status, _, body) = render(ApiError::from_failure(&failure).with_message(id, "failed")).await;
            assert_eq!(status, StatusCode::FAILED_DEPENDENCY);
            assert_eq!(body["error"]["provider_code"], 190);
            assert_eq!(body["message_id"], id.to_string());
            assert_eq!(body["status"], "failed");
        }
    }
}
