//! Reads the layers into the settings: the target and the parser of each key.
//!
//! `Options` that implement `Default` start from it, and each key overrides one field. A test checks that
//! `config/default.toml` states the same defaults.

use std::num::{NonZeroU32, NonZeroUsize};

use super::auth::Auth;
use super::layers::Layers;
use super::validation;
use super::value::{
    address, api_version, base_url, boolean, choice, count, country, duration, fraction, instance_id, list,
    log_level, network, non_zero, optional, origin, rate, rate_per_minute, size, text, web_version,
    websocket_url,
};
use super::{CloudApiDefaults, Settings};
use crate::{bulk, http, inbound, instance, media, queue, relay, retry, telemetry, webhook};
use relevo_domain::{AmbiguousPolicy, BulkItem, RetryPolicy};
use relevo_egress as egress;
use relevo_provider::LinkedOptions;
use relevo_store as store;

/// Minimum of `store.cache_capacity`: sled rejects very small caches and is slow with slightly larger ones.
const MIN_CACHE_BYTES: u64 = 1 << 20;

/// Minimum of `queue.event_log_size`: a smaller log would delete events before a reader could read them.
const MIN_EVENT_LOG_BYTES: u64 = 1 << 20;

/// Reads every key. `None` when a problem left a setting without a value; `Some` does not exclude problems.
pub(super) fn read(layers: &mut Layers) -> Option<Settings> {
    let data_dir = layers.read("data_dir", text);
    let auth = auth(layers);
    let http = http(layers);
    let cloud_api = cloud_api(layers);
    let log = log(layers);
    let shutdown_drain = layers.read("shutdown.drain", duration);
    let sandbox_listen = layers.read("sandbox.listen", address);
    let (egress, store, queue) = (egress(layers), store(layers), queue(layers));
    let (retry, instance, webhook) = (retry(layers), instance(layers), webhook(layers));
    let media = media(layers);
    let inbound = inbound(layers);
    let bulk = bulk(layers);
    let relay = relay(layers);
    let linked = linked(layers);
    validation::durations(layers, &queue, &retry, &instance);
    validation::linked(layers, &linked, &instance);
    if let (Some(http), Some(auth)) = (&http, &auth) {
        validation::http_access(layers, http, auth);
    }
    Some(Settings {
        data_dir: data_dir?.into(),
        auth: auth?,
        http: http?,
        egress,
        store,
        queue,
        retry,
        inbound,
        instance,
        bulk,
        webhook,
        media,
        relay,
        linked,
        cloud_api: cloud_api?,
        log: log?,
        shutdown_drain: shutdown_drain?,
        sandbox_listen: sandbox_listen?,
        bootstrap_instance: None,
        warnings: Vec::new(),
        rows: Vec::new(),
    })
}

fn auth(layers: &mut Layers) -> Option<Auth> {
    let api_key = layers.secret("auth.api_key");
    let required = layers.read("auth.required", boolean);
    let allow_open = layers.read("auth.allow_open", boolean);
    Some(Auth { api_key: api_key?, required: required?, allow_open: allow_open? })
}

fn http(layers: &mut Layers) -> Option<http::Options> {
    let listen = layers.read("http.listen", address);
    let query_key = layers.read("auth.query_key", boolean);
    let open_api_on_loopback = layers.read("auth.open_api_on_loopback", boolean);
    let default_instance = layers.read("default_instance", optional(instance_id));
    let default_country = layers.read("default_country", optional(country));
    let json_body_limit = layers.read("http.json_body_limit", size(1));
    let media_body_limit = layers.read("http.media_body_limit", size(1));
    let upload_limit = layers.read("http.upload_limit", size(1));
    let broadcast_wait = layers.read("http.broadcast_wait", duration);
    let max_connections = layers.read("http.max_connections", count(1));
    let reserved_connections = layers.read("http.reserved_connections", count(0));
    let max_connections_per_peer = layers.read("http.max_connections_per_peer", count::<usize>(0));
    let trusted_proxies = layers.read("http.trusted_proxies", list(network));
    let max_streams = layers.read("http.max_streams", count(0));
    let stream_patience = layers.read("http.stream_patience", duration);
    let head_timeout = layers.read("http.head_timeout", duration);
    let idle_timeout = layers.read("http.idle_timeout", duration);
    let read_timeout = layers.read("http.read_timeout", duration);
    let rate_limit = layers.read("http.rate_limit", count::<u32>(0));
    let cors_origins = layers.read("http.cors_origins", list(origin));
    Some(http::Options {
        listen: listen?,
        api_key: None,
        query_key: query_key?,
        open_api_on_loopback: open_api_on_loopback?,
        default_instance: default_instance?,
        default_country: default_country?,
        json_body_limit: json_body_limit?,
        media_body_limit: media_body_limit?,
        upload_limit: upload_limit?,
        broadcast_wait: broadcast_wait?,
        max_connections: max_connections?,
        reserved_connections: reserved_connections?,
        max_connections_per_peer: NonZeroUsize::new(max_connections_per_peer?),
        trusted_proxies: http::TrustedProxies::new(trusted_proxies?),
        max_streams: max_streams?,
        stream_patience: stream_patience?,
        head_timeout: head_timeout?,
        idle_timeout: idle_timeout?,
        read_timeout: read_timeout?,
        rate_limit: NonZeroU32::new(rate_limit?),
        cors_origins: cors_origins?,
    })
}

fn egress(layers: &mut Layers) -> egress::Options {
    let mut options = egress::Options::default();
    layers.set(&mut options.allow_private, "egress.allow_private", boolean);
    layers.set(&mut options.connect_timeout, "egress.connect_timeout", duration);
    options
}

fn store(layers: &mut Layers) -> store::Options {
    let mut options = store::Options::default();
    layers.set(&mut options.cache_capacity, "store.cache_capacity", size(MIN_CACHE_BYTES));
    layers.set(&mut options.min_free_space, "store.min_free_space", size(0));
    options
}

fn bulk(layers: &mut Layers) -> bulk::Options {
    let mut options = bulk::Options::default();
    layers.set(&mut options.window, "bulk.window", count(1));
    layers.set(&mut options.max_rows, "bulk.max_rows", count(1));
    layers.set(&mut options.max_active, "bulk.max_active", count(1));
    layers.set(&mut options.instance_patience, "bulk.instance_patience", duration);
    layers.set(&mut options.retention, "bulk.retention", duration);
    layers.set(&mut options.broadcast_retention, "bulk.broadcast_retention", duration);
    options.max_rows = options.max_rows.min(BulkItem::ROWS);
    options
}

fn webhook(layers: &mut Layers) -> webhook::Options {
    let mut options = webhook::Options::default();
    layers.set(&mut options.timeout, "webhook.timeout", duration);
    layers.set(&mut options.first_delay, "webhook.first_delay", duration);
    layers.set(&mut options.max_delay, "webhook.max_delay", duration);
    layers.set(&mut options.give_up_after, "webhook.give_up_after", duration);
    options
}

fn media(layers: &mut Layers) -> media::Options {
    let mut options = media::Options::default();
    layers.set(&mut options.retention, "media.retention", duration);
    layers.set(&mut options.max_bytes, "media.max_bytes", size(0));
    options
}

fn relay(layers: &mut Layers) -> relay::Options {
    let mut options = relay::Options::default();
    layers.set(&mut options.url, "relay.url", optional(websocket_url));
    layers.set(&mut options.timeout, "relay.timeout", duration);
    layers.set(&mut options.retry_delay, "relay.retry_delay", duration);
    layers.set(&mut options.capacity, "relay.capacity", count(1));
    options
}

fn linked(layers: &mut Layers) -> LinkedOptions {
    let mut options = LinkedOptions::default();
    layers.set(&mut options.server, "linked_device.server", websocket_url);
    layers.set(&mut options.version, "linked_device.version", optional(web_version));
    layers.set(&mut options.device_name, "linked_device.device_name", text);
    layers.set(&mut options.first_contacts_per_day, "linked_device.first_contacts_per_day", count(0));
    layers.set(&mut options.ack_timeout, "linked_device.ack_timeout", duration);
    layers.set(&mut options.reconnect_max_delay, "linked_device.reconnect_max_delay", duration);
    options
}

fn queue(layers: &mut Layers) -> queue::Options {
    let mut options = queue::Options::default();
    layers.set(&mut options.lease_timeout, "queue.lease_timeout", duration);
    layers.set(&mut options.idempotency_ttl, "queue.idempotency_ttl", duration);
    layers.set(&mut options.capacity, "queue.capacity", count(1));
    layers.set(&mut options.transactional_expiry, "queue.transactional_expiry", optional(duration));
    layers.set(&mut options.bulk_expiry, "queue.bulk_expiry", optional(duration));
    layers.set(&mut options.ledger_retention, "queue.ledger_retention", duration);
    layers.set(&mut options.event_retention, "queue.event_retention", duration);
    layers.set(&mut options.event_log_size, "queue.event_log_size", size(MIN_EVENT_LOG_BYTES));
    options
}

fn retry(layers: &mut Layers) -> retry::Options {
    let mut options = retry::Options::default();
    retry_policy(layers, &mut options.transactional, &TRANSACTIONAL);
    retry_policy(layers, &mut options.bulk, &BULK);
    options
}

/// The retry keys of one message class.
pub(super) struct RetryKeys {
    pub max_attempts: &'static str,
    pub first_delay: &'static str,
    pub max_delay: &'static str,
    pub ambiguous_wait: &'static str,
    pub on_ambiguous: &'static str,
}

/// The retry keys of transactional messages.
pub(super) const TRANSACTIONAL: RetryKeys = RetryKeys {
    max_attempts: "retry.transactional.max_attempts",
    first_delay: "retry.transactional.first_delay",
    max_delay: "retry.transactional.max_delay",
    ambiguous_wait: "retry.transactional.ambiguous_wait",
    on_ambiguous: "retry.transactional.on_ambiguous",
};

/// The retry keys of bulk messages.
pub(super) const BULK: RetryKeys = RetryKeys {
    max_attempts: "retry.bulk.max_attempts",
    first_delay: "retry.bulk.first_delay",
    max_delay: "retry.bulk.max_delay",
    ambiguous_wait: "retry.bulk.ambiguous_wait",
    on_ambiguous: "retry.bulk.on_ambiguous",
};

fn retry_policy(layers: &mut Layers, policy: &mut RetryPolicy, keys: &RetryKeys) {
    let policies = [("hold", AmbiguousPolicy::Hold), ("resend", AmbiguousPolicy::Resend)];
    layers.set(&mut policy.max_attempts, keys.max_attempts, count(1));
    layers.set(&mut policy.first_delay, keys.first_delay, duration);
    layers.set(&mut policy.max_delay, keys.max_delay, duration);
    layers.set(&mut policy.ambiguous_wait, keys.ambiguous_wait, duration);
    layers.set(&mut policy.on_ambiguous, keys.on_ambiguous, choice(policies));
}

fn inbound(layers: &mut Layers) -> inbound::Options {
    let mut options = inbound::Options::default();
    layers.set(&mut options.opt_out_keywords, "inbound.opt_out_keywords", list(text));
    layers.set(&mut options.opt_in_keywords, "inbound.opt_in_keywords", list(text));
    options
}

fn instance(layers: &mut Layers) -> instance::Options {
    let mut options = instance::Options::default();
    layers.set(&mut options.workers, "instance.workers", non_zero);
    layers.set(&mut options.bulk_workers, "bulk.max_workers", non_zero);
    layers.set(&mut options.rate_limit.per_second, "instance.rate_per_second", rate);
    layers.set(&mut options.rate_limit.burst, "instance.rate_burst", non_zero);
    layers.set(&mut options.pair_interval, "instance.pair_interval", duration);
    layers.set(&mut options.pair_burst, "instance.pair_burst", non_zero);
    layers.set(&mut options.send_timeout, "instance.send_timeout", duration);
    layers.set(&mut options.sync_wait, "instance.sync_wait", duration);
    layers.set(&mut options.probe_interval, "instance.probe_interval", duration);
    layers.set(&mut options.probe_timeout, "instance.probe_timeout", duration);
    layers.set(&mut options.restart_delay, "instance.restart_delay", duration);
    layers.set(&mut options.restart_max_delay, "instance.restart_max_delay", duration);
    layers.set(&mut options.restart_limit, "instance.restart_limit", count(0));
    let linked = &mut options.linked;
    layers.set(&mut linked.workers, "linked_device.workers", non_zero);
    layers.set(&mut linked.rate_limit.per_second, "linked_device.rate_per_minute", rate_per_minute);
    layers.set(&mut linked.rate_limit.burst, "linked_device.rate_burst", non_zero);
    layers.set(&mut linked.jitter, "linked_device.jitter", fraction);
    layers.set(&mut linked.probe_interval, "linked_device.probe_interval", duration);
    layers.set(&mut linked.probe_timeout, "linked_device.probe_timeout", duration);
    options
}

fn cloud_api(layers: &mut Layers) -> Option<CloudApiDefaults> {
    let base_url = layers.read("cloud_api.base_url", base_url);
    let api_version = layers.read("cloud_api.api_version", api_version);
    let verify_token = layers.secret("cloud_api.verify_token");
    let app_secret = layers.secret("cloud_api.app_secret");
    Some(CloudApiDefaults {
        base_url: base_url?,
        api_version: api_version?,
        verify_token: verify_token?,
        app_secret: app_secret?,
    })
}

fn log(layers: &mut Layers) -> Option<telemetry::Options> {
    let formats = [("text", telemetry::LogFormat::Text), ("json", telemetry::LogFormat::Json)];
    let level = layers.read("log.level", log_level);
    let format = layers.read("log.format", choice(formats));
    Some(telemetry::Options { level: level?, format: format? })
}
