//! What single values cannot say: rules between settings, and advice.

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

/// How long things take must fit together.
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
        "the lease must be longer, or a message could be judged while it is being sent",
    );
    require(
        layers,
        ["instance.probe_interval", "instance.probe_timeout"],
        instance.probe_interval > instance.probe_timeout,
        "the interval must be longer, or probes would overtake each other",
    );
    require(
        layers,
        ["instance.restart_max_delay", "instance.restart_delay"],
        instance.restart_max_delay >= instance.restart_delay,
        "the longest pause must not be shorter than the first",
    );
    for (policy, keys) in [(&retry.transactional, &TRANSACTIONAL), (&retry.bulk, &BULK)] {
        require(
            layers,
            [keys.max_delay, keys.first_delay],
            policy.max_delay >= policy.first_delay,
            "the longest pause must not be shorter than the first",
        );
    }
}

/// How linked devices are watched and waited for.
pub(super) fn linked(layers: &mut Layers, linked: &LinkedOptions, instance: &instance::Options) {
    require(
        layers,
        ["linked_device.probe_interval", "linked_device.probe_timeout"],
        instance.linked.probe_interval > instance.linked.probe_timeout,
        "the interval must be longer, or probes would overtake each other",
    );
    require(
        layers,
        ["instance.send_timeout", "linked_device.ack_timeout"],
        instance.send_timeout > linked.ack_timeout,
        "an attempt must be able to wait for WhatsApp's acknowledgement",
    );
}

/// What the front door lets in.
pub(super) fn http_access(layers: &mut Layers, http: &http::Options, auth: &Auth) {
    require(
        layers,
        ["http.media_body_limit", "http.json_body_limit"],
        http.media_body_limit >= http.json_body_limit,
        "requests with media must not be held to less than the others",
    );
    let guarded = auth.required || auth.allow_open || http.listen.ip().to_canonical().is_loopback();
    require(
        layers,
        ["auth.required", "http.listen"],
        guarded,
        "everybody who reaches that address could send messages. Require a key, listen on 127.0.0.1, or set \
         `auth.allow_open` = true when something in front of the node asks for credentials",
    );
    let kept_inside = auth.allow_open || http.listen.ip().to_canonical().is_loopback();
    require(
        layers,
        ["auth.open_api_on_loopback", "http.listen"],
        kept_inside || !http.open_api_on_loopback,
        "a proxy on this machine would make everybody who reaches it a program on this machine. Listen on \
         127.0.0.1, or set `auth.allow_open` = true when something in front of the node asks for credentials",
    );
}

/// Names both settings of a broken rule and where they come from.
fn require(layers: &mut Layers, keys: [&'static str; 2], holds: bool, why: &str) {
    if !holds && layers.are_comparable(keys) {
        let [one, other] = keys.map(|key| layers.describe(key));
        layers.add_problem(None, format!("{one} does not go with {other}: {why}"));
    }
}

/// What is permitted and probably not meant.
pub(super) fn add_warnings(layers: &Layers, settings: &Settings, warnings: &mut Vec<String>) {
    let from = |key: &str| layers.source(key).map_or(String::new(), |source| format!(" ({source})"));
    let mut warn = |text: String| warnings.push(text);
    let version = &settings.cloud_api.api_version;
    if graph_version(version).is_some_and(|(major, _)| major < OLDEST_GRAPH_MAJOR) {
        warn(format!(
            "cloud_api.api_version is {version}{}, which Meta no longer serves; the oldest that answers is \
             v{OLDEST_GRAPH_MAJOR}.0. It is used as given",
            from("cloud_api.api_version")
        ));
    }
    if !settings.auth.required {
        let origin = from("auth.required");
        if settings.auth.api_key.is_some() {
            warn(format!("auth.required is false{origin}: auth.api_key is set and not asked for"));
        } else {
            warn(format!("auth.required is false{origin}: whoever reaches the port may send messages"));
        }
        if settings.http.cors_origins.iter().any(|origin| origin == "*") {
            warn("http.cors_origins permits every web page to use a node that asks for no key".to_owned());
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
