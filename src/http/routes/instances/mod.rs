//! `/instances`: the accounts that this node runs.

pub(in crate::http) mod connect;
pub(in crate::http) mod create;
pub(in crate::http) mod delete;
pub(in crate::http) mod disconnect;
pub(in crate::http) mod dto;
pub(in crate::http) mod get;
pub(in crate::http) mod list;
pub(in crate::http) mod logout;
pub(in crate::http) mod pair_code;
pub(in crate::http) mod qr;
pub(in crate::http) mod restart;
pub(in crate::http) mod resume;
pub(in crate::http) mod status;
pub(in crate::http) mod update;
pub(in crate::http) mod webhook;

use axum::Json;

use crate::http::AppState;
use crate::http::error::ApiError;
use crate::instance::InstanceView;
use dto::response::{Instance, InstanceResponse};

/// The response form of an instance, with its queue depth and webhook.
fn load_instance(state: &AppState, view: InstanceView) -> Result<Instance, ApiError> {
    let depth = state.services.instances.depth(&view.config.id)?;
    let webhook = state.services.webhooks.primary(view.number);
    Ok(Instance::new(view, depth, webhook.map(|endpoint| endpoint.url)))
}

fn instance_response(
    state: &AppState,
    view: InstanceView,
    message: Option<&'static str>,
) -> Result<Json<InstanceResponse>, ApiError> {
    Ok(Json(InstanceResponse { success: true, data: load_instance(state, view)?, message }))
}
