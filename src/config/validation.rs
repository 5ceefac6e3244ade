//! Rules between settings, and warnings about settings that are probably a mistake.

use super::Settings;
use super::auth::Auth;
use super::layers::Layers;
use super::settings::{BULK, TRANSACTIONAL};
use super::value::graph_version;
use crate::{http, instance, queue, retry};
use relevo_provider::LinkedOptions;

/// The oldest major version of the Graph API that Meta still answered in November 2026; v21.0 ends on
/// 2027-01-21, v20.0 ended on 2026-09-24 (developers.facebook.com, Graph API changelog).
const OLDEST_GRAPH_MAJOR: u32 = 21;

/// Shorter keys can be guessed.
const SHORT_KEY: usize = 16;

/// Checks that timeouts and intervals are consistent.
pub(super) fn durations(
    layers: &mut Layers,
    queue: &queue::Options,
    retry: &retry::Options,
    instance: &instance::Options,
) {
    require(
        layers,
        ["queue.lease_timeout", "instance.send_timeout"],
        queue.lease_timeout > instance.send_timeout,
        "the lease must be longer; otherwise a lease could expire while its message is being sent",
    );
    require(
        layers,
        ["instance.probe_interval", "instance.probe_timeout"],
        instance.probe_interval > instance.probe_timeout,
        "the interval must be longer; otherwise health checks would overlap",
    );
    require(
        layers,
        ["instance.restart_max_delay", "instance.restart_delay"],
        instance.restart_max_delay >= instance.restart_delay,
        "the maximum delay must not be shorter than the first",
    );
    for (policy, keys) in [(&retry.transactional, &TRANSACTIONAL), (&retry.bulk, &BULK)] {
        require(
            layers,
            [keys.max_delay, keys.first_delay],
            policy.max_delay >= policy.first_delay,
            "the maximum delay must not be shorter than the first",
        );
    }
}

/// Checks the timeouts of linked devices.
pub(super) fn linked(layers: &mut Layers, linked: &LinkedOptions, instance: &instance::Options) {
    require(
        layers,
        ["linked_device.probe_interval", "linked_device.probe_timeout"],
        instance.linked.probe_interval > instance.linked.probe_timeout,
        "the interval must be longer; otherwise health checks would overlap",
    );
    require(
        layers,
        ["instance.send_timeout", "linked_device.ack_timeout"],
        instance.send_timeout > linked.ack_timeout,
        "the timeout of an attempt must be longer than the wait for WhatsApp's acknowledgement",
    );
}

/// Checks the body limits and that an open API is not reachable from other machines.
pub(super) fn http_access(layers: &mut Layers, http: &http::Options, auth: &Auth) {
    require(
        layers,
        ["http.media_body_limit", "http.json_body_limit"],
        http.media_body_limit >= http.json_body_limit,
        "the limit of requests with media must not be lower than the limit of other requests",
    );
    let may_be_open = auth.allow_open || http.listen.ip().to_canonical().is_loopback();
    require(
        layers,
        ["auth.required", "http.listen"],
        auth.required || may_be_open,
        "every client that reaches that address could send messages. Require a key, listen on 127.0.0.1, or set \
         `auth.allow_open` = true when a proxy in front of the node checks credentials",
    );
    require(
        layers,
        ["auth.open_api_on_loopback", "http.listen"],
        !http.open_api_on_loopback || may_be_open,
        "requests that a proxy on this machine forwards would need no key. Listen on 127.0.0.1, or set \
         `auth.allow_open` = true when a proxy in front of the node checks credentials",
    );
}

/// Records a problem that names both settings and their sources, unless `holds` is true or a value is missing.
fn require(layers: &mut Layers, keys: [&'static str; 2], holds: bool, why: &str) {
    if !holds && layers.are_comparable(keys) {
        let [first, second] = keys.map(|key| layers.describe(key));
        layers.add_problem(None, format!("{first} conflicts with {second}: {why}"));
    }
}

/// Adds warnings about settings that are valid and probably a mistake.
pub(super) fn add_warnings(layers: &Layers, settings: &Settings, warnings: &mut Vec<String>) {
    let from = |key: &str| layers.source(key).map_or(String::new(), |source| format!(" ({source})"));
    let mut warn = |text: String| warnings.push(text);
    let version = &settings.cloud_api.api_version;
    if graph_version(version).is_some_and(|(major, _)| major < OLDEST_GRAPH_MAJOR) {
        warn(format!(
            "cloud_api.api_version is {version}{}, which Meta no longer serves; the oldest served version is \
             v{OLDEST_GRAPH_MAJOR}.0. The node uses the configured version",
            from("cloud_api.api_version")
        ));
    }
    if !settings.auth.required {
        let origin = from("auth.required");
        if settings.auth.api_key.is_some() {
            warn(format!("auth.required is false{origin}: auth.api_key is set and not checked"));
        } else {
            warn(format!("auth.required is false{origin}: every client of the port may send messages"));
        }
        if settings.http.cors_origins.iter().any(|origin| origin == "*") {
            warn("http.cors_origins permits every web page to use a node that requires no key".to_owned());
        }
    }
    if settings.http.open_api_on_loopback {
        let origin = from("auth.open_api_on_loopback");
        warn(format!(
            "auth.open_api_on_loopback is true{origin}: every program on this machine may send messages"
        ));
    }
    if settings.auth.api_key.as_ref().is_some_and(|key| key.expose().len() < SHORT_KEY) {
        let origin = from("auth.api_key");
        warn(format!("auth.api_key{origin} is shorter than {SHORT_KEY} characters and can be guessed"));
    }
}
