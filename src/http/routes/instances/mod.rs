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

use crate::accounts::Account;
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::instance::InstanceView;
use dto::response::{Instance, InstanceResponse};

fn account_response(account: Account, message: Option<&'static str>) -> Json<InstanceResponse> {
    Json(InstanceResponse { success: true, data: Instance::new(account), message })
}

fn instance_response(
    state: &AppState,
    view: InstanceView,
    message: Option<&'static str>,
) -> Result<Json<InstanceResponse>, ApiError> {
    Ok(account_response(state.services.accounts.describe(view)?, message))
}
