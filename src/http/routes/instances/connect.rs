//! `POST` and `GET /instances/{id}/connect`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::dto::response::InstanceResponse;
use super::instance_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::instance::InstanceView;

/// Connects an instance, now and after every restart of the node.
#[utoipa::path(post, path = "/instances/{id}/connect", operation_id = "connect_instance", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "It connects; see `status`.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn connect(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.connect(id).await?;
    instance_response(&state, view, Some("Conexión iniciada"))
}

/// The progress of connecting.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectProgressResponse {
    success: bool,
    #[schema(example = "shop")]
    instance_id: String,
    /// The text of the current QR code, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[schema(example = "connecting")]
    status: &'static str,
}

/// Connects an instance that is not connected, and returns its progress at once: for clients that draw the QR code
/// themselves and poll until `status` is `connected`.
#[utoipa::path(get, path = "/instances/{id}/connect", operation_id = "get_connect", tag = "instances", params(TargetInstance), responses(
    (status = 200, description = "The state, and the code if there is one.", body = ConnectProgressResponse),
    (status = 404, description = "No such instance.", body = ErrorBody),
))]
pub async fn progress(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<ConnectProgressResponse>, ApiError> {
    let InstanceView { state: view, .. } = state.services.instances.connect_if_idle(&id).await?;
    let code = view.qr_code.map(|code| code.text);
    Ok(Json(ConnectProgressResponse {
        success: true,
        instance_id: id.into(),
        code,
        status: view.state.as_str(),
    }))
}
