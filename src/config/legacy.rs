//! The environment variables of the documented systems, for operators who reuse an existing `.env` file.
//!
//! They override the file, and the `RELEVO_` variables override them. An empty variable counts as not set, because
//! compose files pass `${NAME:-}`. Variables of databases, Redis and other services are ignored.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::error::ValueSource;
use super::layers::Layers;
use relevo_domain::Secret;

/// Variables that set one key each.
const KEYS: [(&str, &str); 7] = [
    ("API_KEY", "auth.api_key"),
    ("VERIFY_TOKEN", "cloud_api.verify_token"),
    ("BASE_URL", "cloud_api.base_url"),
    ("VERSION", "cloud_api.api_version"),
    ("CORS_ALLOWED_ORIGINS", "http.cors_origins"),
    ("BULK_MAX_WORKERS", "bulk.max_workers"),
    ("WEBSOCKET_URL", "relay.url"),
];

/// The name of the instance that [`LegacyAccount`] describes.
pub(super) const INSTANCE_ID: &str = "default";

/// The number and token of the one account that the documented Flask application served.
#[derive(Debug)]
pub(super) struct LegacyAccount {
    pub phone_number_id: String,
    pub access_token: Secret,
}

/// Overrides values with the variables. Returns the account if its variables are set.
pub(super) fn apply(layers: &mut Layers, variables: &BTreeMap<String, String>) -> Option<LegacyAccount> {
    let value = |name: &str| variables.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    for (name, key) in KEYS {
        if let Some(text) = value(name) {
            layers.put_text(key, text, variable(name));
        }
    }
    if let Some(level) = value("LOG_LEVEL") {
        layers.put_text("log.level", translated_level(level), variable("LOG_LEVEL"));
    }
    if let Some(format) = value("LOG_FORMAT") {
        layers.put_text("log.format", &format.to_lowercase(), variable("LOG_FORMAT"));
    }
    if let Some(port) = value("APP_PORT") {
        set_port(layers, port);
    }
    let account = account(layers, value("PHONE_NUMBER_ID"), value("ACCESS_TOKEN"))?;
    if layers.text("default_instance") == Some("") {
        layers.put_text("default_instance", INSTANCE_ID, variable("PHONE_NUMBER_ID"));
    }
    Some(account)
}

fn variable(name: &str) -> ValueSource {
    ValueSource::Variable(name.to_owned())
}

/// Translates the level names of Python's and Go's loggers.
fn translated_level(level: &str) -> &str {
    match level.to_ascii_lowercase().as_str() {
        "warning" => "warn",
        "critical" | "fatal" | "panic" => "error",
        _ => level,
    }
}

/// Replaces the port of `http.listen`. The IP address stays: `APP_PORT` does not make a node reachable from other
/// machines.
fn set_port(layers: &mut Layers, text: &str) {
    let source = variable("APP_PORT");
    let Ok(port) = text.parse::<u16>() else {
        return layers.add_problem(Some(source), format!("is {text:?}; expected a port from 0 to 65535"));
    };
    let listen = layers.text("http.listen").and_then(|listen| listen.trim().parse::<SocketAddr>().ok());
    if let Some(mut listen) = listen {
        listen.set_port(port);
        layers.put_text("http.listen", &listen.to_string(), source);
    }
}

fn account(layers: &mut Layers, number: Option<&str>, token: Option<&str>) -> Option<LegacyAccount> {
    let (number, token) = match (number, token) {
        (Some(number), Some(token)) => (number, token),
        (None, None) => return None,
        (Some(_), None) => {
            layers.add_problem(Some(variable("PHONE_NUMBER_ID")), "needs ACCESS_TOKEN beside it".to_owned());
            return None;
        }
        (None, Some(_)) => {
            layers.add_problem(Some(variable("ACCESS_TOKEN")), "needs PHONE_NUMBER_ID beside it".to_owned());
            return None;
        }
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let text = format!("is {number:?}; expected the digits of Meta's phone number id");
        layers.add_problem(Some(variable("PHONE_NUMBER_ID")), text);
        return None;
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = "(not shown) does not fit; expected printable ASCII text without spaces".to_owned();
        layers.add_problem(Some(variable("ACCESS_TOKEN")), text);
        return None;
    }
    Some(LegacyAccount { phone_number_id: number.to_owned(), access_token: Secret::new(token) })
}
