//! Access checks of all Graph requests, and the request for a phone number's properties.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;

use crate::errors::{GraphError, GraphRejection, code};
use crate::faults::RequestKind;
use crate::ids;
use crate::media;
use crate::state::SandboxState;

/// Checks version, object id and token, in Meta's order.
///
/// # Errors
/// The version, the token or the id is invalid.
pub fn check_access(
    shared: &SandboxState,
    version: &str,
    id: &str,
    headers: &HeaderMap,
) -> Result<(), GraphError> {
    if !is_version(version) {
        return Err(
            GraphError::new(code::UNKNOWN_PATH).message(format!("Unknown path components: /{version}/{id}"))
        );
    }
    check_token(shared, headers)?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if id.is_empty() || id.len() > 64 || !id.bytes().all(is_plain) {
        return Err(GraphError::object_not_found(id));
    }
    Ok(())
}

/// `v` and two numbers; the sandbox accepts every version.
fn is_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let numbers = text.strip_prefix('v').and_then(|rest| rest.split_once('.'));
    numbers.is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// Checks the bearer token.
///
/// # Errors
/// The token is missing, or it is not the configured one.
pub fn check_token(shared: &SandboxState, headers: &HeaderMap) -> Result<(), GraphError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, token) = given.split_once(' ').unwrap_or_default();
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(GraphError::new(code::TOKEN_MISSING));
    }
    match &shared.options.access_token {
        Some(expected) if !bool::from(expected.expose().as_bytes().ct_eq(token.as_bytes())) => {
            Err(GraphError::new(code::TOKEN))
        }
        _ => Ok(()),
    }
}

/// `GET /{version}/{id}`: the properties of a phone number, or the metadata of a media id.
///
/// # Errors
/// The request is invalid, or a fault rejects it.
pub async fn get_object(
    State(shared): State<Arc<SandboxState>>,
    Path((version, id)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, GraphRejection> {
    let is_media = ids::is_media_id(&id) || query.contains_key("phone_number_id");
    if is_media {
        return media::get_metadata(
            &shared,
            &version,
            &id,
            query.get("phone_number_id").map(String::as_str),
            &headers,
        )
        .await;
    }
    shared.stats.probes.add(1);
    let refuse = |error: GraphError| {
        shared.stats.record_refusal(error.code);
        GraphRejection::from(error)
    };
    check_access(&shared, &version, &id, &headers).map_err(refuse)?;
    let fault = shared.faults.trigger(RequestKind::Probe);
    fault
        .apply_before(&shared.closing)
        .await
        .inspect_err(|rejection| record_rejection(&shared, rejection))?;
    let number = phone_number(&shared, &id);
    let answer = select_fields(number, query.get("fields").map(String::as_str)).map_err(refuse)?;
    fault.apply_after(&shared.closing).await?;
    Ok(Json(answer).into_response())
}

/// Counts a request that a fault rejected.
pub fn record_rejection(shared: &SandboxState, rejection: &GraphRejection) {
    match rejection {
        GraphRejection::Error(error) => shared.stats.record_refusal(error.code),
        GraphRejection::Foreign(_) | GraphRejection::AbortConnection => shared.stats.dropped.add(1),
    }
}

/// All fields of a phone number.
fn phone_number(shared: &SandboxState, id: &str) -> Map<String, Value> {
    let fields = [
        ("verified_name", json!(shared.options.verified_name)),
        ("display_phone_number", json!(format!("+{}", shared.options.display_phone_number))),
        ("quality_rating", json!("GREEN")),
        ("throughput", json!({ "level": "STANDARD" })),
        ("code_verification_status", json!("VERIFIED")),
        ("platform_type", json!("CLOUD_API")),
        ("name_status", json!("APPROVED")),
        ("status", json!("CONNECTED")),
        ("account_mode", json!("SANDBOX")),
        ("is_official_business_account", json!(false)),
        ("messaging_limit_tier", json!("TIER_UNLIMITED")),
        ("whatsapp_business_manager_messaging_limit", json!("TIER_UNLIMITED")),
        ("id", json!(id)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Fields that a number has at Meta and that have no value here. The Graph API omits such fields.
const UNSET_FIELDS: &[&str] = &[
    "certificate",
    "conversational_automation",
    "country_code",
    "country_dial_code",
    "eligibility_for_api_business_global_search",
    "health_status",
    "is_on_biz_app",
    "is_pin_enabled",
    "is_preverified_number",
    "last_onboarded_time",
    "new_certificate",
    "new_name_status",
    "quality_score",
    "search_visibility",
    "webhook_configuration",
];

/// The requested fields and always the id; without `fields` all of them.
fn select_fields(
    mut all: Map<String, Value>,
    fields: Option<&str>,
) -> Result<Map<String, Value>, GraphError> {
    let Some(fields) = fields.filter(|fields| !fields.is_empty()) else { return Ok(all) };
    let mut chosen = Map::new();
    for name in fields.split(',').map(str::trim).chain(["id"]) {
        match all.remove(name) {
            Some(value) => drop(chosen.insert(name.to_owned(), value)),
            None if chosen.contains_key(name) || UNSET_FIELDS.contains(&name) => {}
            None => {
                return Err(GraphError::new(code::PARAMETER)
                    .message(format!("Tried accessing nonexisting field ({name})")));
            }
        }
    }
    Ok(chosen)
}

/// The answer for all other paths and methods.
pub async fn unknown_path(method: Method, uri: Uri) -> GraphError {
    GraphError::new(code::UNKNOWN_PATH).message(format!(
        "Unknown path components: {} (the sandbox does not serve {method} here; GET / lists what it serves)",
        uri.path()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graph_version_is_v_and_two_numbers() {
        assert!(["v1.0", "v25.0", "v999.9"].into_iter().all(is_version));
        assert!(!["25.0", "v25", "v25.", "vx.0", "v.0", "_sandbox"].into_iter().any(is_version));
    }

    #[test]
    fn select_fields_returns_requested_fields_and_refuses_unknown_ones() {
        let all = || {
            Map::from_iter([
                ("id".to_owned(), json!("1")),
                ("a".to_owned(), json!(2)),
                ("b".to_owned(), json!(3)),
            ])
        };
        assert_eq!(select_fields(all(), None).unwrap().len(), 3);
        assert_eq!(Value::Object(select_fields(all(), Some("a")).unwrap()), json!({ "id": "1", "a": 2 }));
        assert_eq!(
            Value::Object(select_fields(all(), Some("a,id, a")).unwrap()),
            json!({ "id": "1", "a": 2 })
        );
        assert_eq!(select_fields(all(), Some("nonsense")).unwrap_err().code, 100);
    }
}
