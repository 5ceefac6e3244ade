//! `GET /`.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::access::Open;

/// The name and version of the service.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceInfo {
    #[schema(example = "relevo")]
    service: &'static str,
    version: &'static str,
    #[schema(example = "running")]
    status: &'static str,
}

/// The name and version of the service.
#[utoipa::path(get, path = "/", operation_id = "get_service", tag = "node", responses((status = 200, description = "The name and version.", body = ServiceInfo)))]
pub async fn service_info(_: Open) -> Json<ServiceInfo> {
    Json(ServiceInfo { service: "relevo", version: env!("CARGO_PKG_VERSION"), status: "running" })
}
