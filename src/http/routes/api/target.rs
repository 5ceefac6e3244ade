//! The instance of a request under `/api`.

use crate::http::AppState;
use crate::http::api::error::ApplicationError;
use crate::http::error::ApiError;
use relevo_domain::InstanceId;

/// The instance that the request names, otherwise the node's default.
///
/// # Errors
///
/// The instance does not exist, or none is named and there is no default.
pub(super) fn target_instance(
    state: &AppState,
    named: Option<String>,
) -> Result<InstanceId, ApplicationError> {
    let Some(name) = named else { return default_instance(state) };
    let id = name.parse().map_err(|_| ApiError::unknown_instance(&name))?;
    // Checked before a file is stored.
    state.services.instances.get(&id)?;
    Ok(id)
}

fn default_instance(state: &AppState) -> Result<InstanceId, ApplicationError> {
    let id = state.options.default_instance.clone().ok_or_else(|| {
        ApplicationError::unavailable(
            "this node has no default_instance; set one, or name an instance with X-Instance-Id or instance_id",
        )
    })?;
    state.services.instances.get(&id).map_err(|_| {
        ApplicationError::unavailable(format!("no instance is called {id}; create it with POST /instances"))
    })?;
    Ok(id)
}
