//! `/suppressions`: recipients that must not be written to unasked.

pub(in crate::http) mod add;
pub(in crate::http) mod delete;
mod dto;
pub(in crate::http) mod get;
pub(in crate::http) mod import;
pub(in crate::http) mod list;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use crate::http::error::ApiError;
use crate::http::{AppState, parameter};
use relevo_domain::{ErrorKind, Recipient, ValidationError};

/// The `phone` of a path, in any spelling.
pub(in crate::http) struct RecipientPath(pub Recipient);

impl FromRequestParts<AppState> for RecipientPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let found = Path::<String>::from_request_parts(parts, state).await;
        let Path(phone) = found.map_err(|rejection| ValidationError::new("phone", rejection.body_text()))?;
        Ok(Self(state.recipients().parse(&phone)?))
    }
}

impl IntoParams for RecipientPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter::path("phone", "The phone, as it is written on the list that the route is about.")]
    }
}

fn not_suppressed(recipient: &Recipient) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("{recipient} is not on the suppression list"))
}
