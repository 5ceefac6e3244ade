//! `/webhook` and `/instances/{id}/cloud-webhook`: the webhook of the Cloud API. No API key: requests are signed.

pub(in crate::http) mod quarantine;
pub(in crate::http) mod receive;
pub(in crate::http) mod verify;

use crate::http::AppState;
use crate::inbound::WebhookAccount;
use relevo_domain::InstanceId;

fn find_account(state: &AppState, id: &InstanceId) -> Option<WebhookAccount> {
    let accounts = state.services.instances.accounts();
    accounts.iter().find(|account| account.name == *id).cloned()
}
