//! Meta's errors: codes, titles, HTTP statuses and the response body.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::faults::ForeignAnswer;
use crate::ids;

/// An error of the Graph API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError {
    pub code: u32,
    status: StatusCode,
    message: Cow<'static, str>,
    details: Option<String>,
    subcode: Option<u32>,
}

/// Error codes that the sandbox returns without a fault.
/// Source: Meta, "Cloud API error codes".
pub mod code {
    /// Temporary due to downtime or overload.
    pub const SERVICE: u32 = 2;
    /// Invalid parameter.
    pub const PARAMETER: u32 = 100;
    /// The request has no access token.
    pub const TOKEN_MISSING: u32 = 104;
    /// The access token is invalid.
    pub const TOKEN: u32 = 190;
    /// Unknown path components.
    pub const UNKNOWN_PATH: u32 = 2500;
    /// Rate limit hit.
    pub const RATE_LIMIT: u32 = 130_429;
    /// A required parameter is missing.
    pub const PARAMETER_MISSING: u32 = 131_008;
    /// A parameter value is not valid.
    pub const PARAMETER_VALUE: u32 = 131_009;
    /// The recipient is the sender.
    pub const SELF_MESSAGE: u32 = 131_021;
    /// The media cannot be uploaded or used.
    pub const MEDIA_UPLOAD: u32 = 131_053;
    /// The text of a template parameter is not valid.
    pub const TEMPLATE_PARAMETER_TEXT: u32 = 132_018;
}

impl GraphError {
    /// The error with this code, its usual title and its HTTP status.
    pub fn new(code: u32) -> Self {
        Self { code, status: status(code), message: title(code).into(), details: None, subcode: None }
    }

    /// Sets `error_data.details`: what exactly was wrong.
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// Replaces the usual title of the code.
    pub fn message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }

    /// Replaces the HTTP status of the code.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The object does not exist or this token may not access it: code 100, subcode 33.
    pub fn object_not_found(id: &str) -> Self {
        let mut error = Self::new(code::PARAMETER).message(format!(
            "Unsupported request. Object with ID '{id}' does not exist, cannot be loaded due to missing permissions, or does not support this operation"
        ));
        error.subcode = Some(33);
        error
    }

    /// The message with its `(#code)`, as the body shows it. Token errors have no number.
    fn display_message(&self) -> String {
        match self.code {
            code::TOKEN | code::TOKEN_MISSING | code::UNKNOWN_PATH => self.message.clone().into_owned(),
            number => format!("(#{number}) {}", self.message),
        }
    }
}

#[derive(Serialize)]
struct GraphErrorBody<'a> {
    error: GraphErrorObject<'a>,
}

#[derive(Serialize)]
struct GraphErrorObject<'a> {
    message: String,
    r#type: &'static str,
    code: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_subcode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_data: Option<GraphErrorData<'a>>,
    fbtrace_id: String,
}

#[derive(Serialize)]
struct GraphErrorData<'a> {
    messaging_product: &'static str,
    details: &'a str,
}

impl IntoResponse for GraphError {
    fn into_response(self) -> Response {
        let body = GraphErrorBody {
            error: GraphErrorObject {
                message: self.display_message(),
                r#type: "OAuthException",
                code: self.code,
                error_subcode: self.subcode,
                error_data: self
                    .details
                    .as_deref()
                    .map(|details| GraphErrorData { messaging_product: "whatsapp", details }),
                fbtrace_id: ids::trace_id(),
            },
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("OAuth \"Facebook Platform\" \"invalid_token\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Marks a response that the server does not write: it cuts the connection.
#[derive(Debug, Clone, Copy)]
pub struct AbortConnection;

/// Reason why a request did not get its usual answer.
#[derive(Debug)]
pub enum GraphRejection {
    /// The request is answered with an error.
    Error(GraphError),
    /// The request is answered as by another server.
    Foreign(ForeignAnswer),
    /// The connection is cut without an answer.
    AbortConnection,
}

impl From<GraphError> for GraphRejection {
    fn from(error: GraphError) -> Self {
        GraphRejection::Error(error)
    }
}

impl IntoResponse for GraphRejection {
    fn into_response(self) -> Response {
        match self {
            GraphRejection::Error(error) => error.into_response(),
            GraphRejection::Foreign(answer) => {
                let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::NOT_FOUND);
                let mut response = (status, "<html>not the Graph API</html>").into_response();
                if let Some(seconds) = answer.retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                }
                response
            }
            GraphRejection::AbortConnection => {
                let mut response = Response::default();
                response.extensions_mut().insert(AbortConnection);
                response
            }
        }
    }
}

/// Meta's title of an error code.
pub fn title(code: u32) -> &'static str {
    match code {
        0 => "We were unable to authenticate the app user",
        1 => "Invalid request or possible server error",
        2 => "Temporary due to downtime or due to being overloaded",
        3 => "Capability or permissions issue",
        4 => "Application request limit reached",
        10 => "Application does not have permission for this action",
        33 | 100 => "Invalid parameter",
        104 => "An access token is required to request this resource.",
        190 => "Invalid OAuth access token - Cannot parse access token",
        200..=299 => "Permissions error",
        368 => "The action attempted has been deemed abusive or is otherwise disallowed",
        2500 => "Unknown path components",
        80007 => "Rate limit issues",
        130_429 => "Rate limit hit",
        130_472 => "User's number is part of an experiment",
        130_497 => "Business account is restricted from messaging users in this country",
        131_000 => "Something went wrong",
        131_005 => "Access denied",
        131_008 => "Required parameter is missing",
        131_009 => "Parameter value is not valid",
        131_016 => "Service unavailable",
        131_021 => "Recipient cannot be sender",
        131_026 => "Message undeliverable",
        131_030 => "Recipient phone number not in allowed list",
        131_031 => "Account has been locked",
        131_037 => "Display name approval is required",
        131_042 => "Business eligibility payment issue",
        131_045 => "Incorrect certificate",
        131_047 => "Re-engagement message",
        131_048 => "Spam rate limit hit",
        131_049 => "Meta chose not to deliver",
        131_050 => "User has stopped marketing messages",
        131_051 => "Unsupported message type",
        131_052 => "Media download error",
        131_053 => "Media upload error",
        131_056 => "(Business Account, Consumer Account) pair rate limit hit",
        131_057 => "Account in maintenance mode",
        132_000 => "Template Param Count Mismatch",
        132_001 => "Template does not exist",
        132_005 => "Template Hydrated Text Too Long",
        132_007 => "Template Format Character Policy Violated",
        132_012 => "Template Parameter Format Mismatch",
        132_015 => "Template is Paused",
        132_016 => "Template is Disabled",
        132_018 => "Template parameter text is not valid",
        132_068 => "Flow is blocked",
        132_069 => "Flow is throttled",
        133_004 => "Server Temporarily Unavailable",
        133_010 => "Phone number Not Registered",
        135_000 => "Generic user error",
        _ => "Generic error",
    }
}

/// The HTTP status of an error code. Meta's current page states none; these are from an older version of it.
fn status(code: u32) -> StatusCode {
    match code {
        0 | 104 | 190 => StatusCode::UNAUTHORIZED,
        4 | 80007 | 130_429 | 131_048 | 131_056 => StatusCode::TOO_MANY_REQUESTS,
        10 | 200..=299 | 368 | 130_497 | 131_005 | 131_031 => StatusCode::FORBIDDEN,
        3 | 131_000 | 131_016 | 131_045 | 131_057 => StatusCode::INTERNAL_SERVER_ERROR,
        2 | 133_004 => StatusCode::SERVICE_UNAVAILABLE,
        132_001 => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    }
}
