//! The instance of a request under `/api`, and parsing of large bodies off the server threads.

use crate::http::AppState;
use crate::http::api::error::ApplicationError;
use crate::http::error::ApiError;
use relevo_domain::InstanceId;

/// Bodies from this size on are parsed on a blocking thread, in bytes.
const OFF_THREAD_BYTES: usize = 64 << 10;

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

/// Parses a large body on a blocking thread, so that other requests are not delayed.
///
/// # Errors
///
/// The error of `parse`, or a panic in it.
pub(super) async fn off_thread<T: std::marker::Send + 'static>(
    bytes: usize,
    read: impl FnOnce() -> Result<T, ApplicationError> + std::marker::Send + 'static,
) -> Result<T, ApplicationError> {
    if bytes < OFF_THREAD_BYTES {
        return read();
    }
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(ApiError::handler_panicked().into()))
}
