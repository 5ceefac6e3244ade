//! The counters and histograms of the node in the Prometheus format.
//!
//! The process creates one [`Metrics`] at startup and passes it to all modules. Clones share the same numbers; two nodes
//! in one process count separately. Values that can be read at any time (queue depth, instance states, the process) are
//! not kept here: the caller of [`Metrics::encode`] passes them as [`GaugeSample`]s.

mod series;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use series::{Counter, Counts, Labels, Seconds};

/// The counters and histograms of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Series>);

/// Every series of the node, each with its entry in the registry.
#[derive(Debug)]
struct Series {
    registry: Registry,
    accepted: Counter<2>,
    refused: Counter<1>,
    accept: Seconds,
    commit: Seconds,
    send: Seconds,
    end_to_end: Seconds,
    delivery: Seconds,
    commit_changes: Counts,
    attempts: Counter<2>,
    ends: Counter<1>,
    receipts: Counter<2>,
    inbound: Counter<1>,
    deliveries: Counter<1>,
    client_losses: Counter<1>,
    pairings: Counter<1>,
    relay_pushes: Counter<1>,
    connection_limits: Counter<1>,
}

impl Default for Metrics {
    /// The table of all series, in the order of the output: name, help text and labels. The prefix `relevo_` and the
    /// suffixes of the format (`_total`, `_seconds`) are added to the names.
    fn default() -> Self {
        let mut registry = Registry::with_prefix("relevo");
        let r = &mut registry;
        Self(Arc::new(Series {
            accepted: Counter::register(r, "accepted_messages", "Messages taken in", ["class", "mode"]),
            refused: Counter::register(r, "refused_messages", "Messages not taken in, by reason", ["reason"]),
            accept: Seconds::register(r, "accept", "From a message's arrival until it was durable"),
            commit: Seconds::register(r, "commit", "One commit of the store, fsync included"),
            send: Seconds::register(r, "send", "One attempt at WhatsApp"),
            end_to_end: Seconds::register(
                r,
                "end_to_end",
                "From a message's acceptance until WhatsApp took it",
            ),
            delivery: Seconds::register(r, "delivery", "One webhook delivery"),
            commit_changes: Counts::register(r, "commit_changes", "Changes that shared one commit"),
            attempts: Counter::register(
                r,
                "attempts",
                "Attempts at WhatsApp, by outcome and code",
                ["outcome", "code"],
            ),
            ends: Counter::register(r, "messages", "Messages that came to an end, by fate", ["fate"]),
            receipts: Counter::register(r, "receipts", "Facts that WhatsApp reported", ["kind", "changed"]),
            inbound: Counter::register(r, "inbound", "What came in from WhatsApp", ["kind"]),
            deliveries: Counter::register(r, "deliveries", "Webhook deliveries, by outcome", ["outcome"]),
            client_losses: Counter::register(
                r,
                "client_losses",
                "Connections and clients that were lost",
                ["cause"],
            ),
            pairings: Counter::register(r, "pairings", "Attempts to pair a linked device", ["outcome"]),
            relay_pushes: Counter::register(
                r,
                "relayed",
                "Attempts to push a frame to the relay's peer",
                ["outcome"],
            ),
            connection_limits: Counter::register(
                r,
                "connection_limits",
                "Connections of the API that a limit closed or refused",
                ["limit"],
            ),
            registry,
        }))
    }
}

/// The current value of one gauge.
#[derive(Debug, Clone)]
pub struct GaugeSample {
    /// Name without the prefix `relevo_`, or the full name if it begins with `process_`.
    pub name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Label names with their values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// The queue accepted a message. `took`: time from its arrival until it was durable.
    pub fn record_accepted(&self, class: &'static str, mode: &'static str, took: Duration) {
        self.0.accepted.increment([class, mode]);
        self.0.accept.observe(took);
    }

    /// The queue refused a message.
    pub fn record_refused(&self, reason: &'static str) {
        self.0.refused.increment([reason]);
    }

    /// A commit became durable. `changes`: number of closures that shared it.
    pub fn record_commit(&self, changes: usize, took: Duration) {
        self.0.commit.observe(took);
        self.0.commit_changes.observe(changes);
    }

    /// An attempt to send ended. `code`: the provider's error code, if any.
    pub fn record_attempt(&self, outcome: &'static str, code: Option<i64>, took: Duration) {
        let code = code.map_or_else(String::new, |code| code.to_string());
        self.0.attempts.increment([outcome, &code]);
        self.0.send.observe(took);
    }

    /// A message was settled. `since_accepted`: time since its acceptance, for a message that was sent.
    pub fn record_end(&self, fate: &'static str, since_accepted: Option<Duration>) {
        self.0.ends.increment([fate]);
        if let Some(took) = since_accepted {
            self.0.end_to_end.observe(took);
        }
    }

    /// WhatsApp reported a receipt. `changed`: whether it changed the status of a message.
    pub fn record_receipt(&self, kind: &'static str, changed: bool) {
        self.0.receipts.increment([kind, if changed { "yes" } else { "no" }]);
    }

    /// Meta's webhook or a linked device's connection delivered something. `kind` of an accepted part is `event`,
    /// `duplicate` or `odd`; of a rejected delivery `forged`, `too_large`, or `refused` when it could not be stored.
    pub fn record_inbound(&self, kind: &'static str, count: u64) {
        self.0.inbound.add([kind], count);
    }

    /// A webhook delivery was attempted: `delivered`, `failed` or `refused`.
    pub fn record_delivery(&self, outcome: &'static str, took: Duration) {
        self.0.deliveries.increment([outcome]);
        self.0.delivery.observe(took);
    }

    /// A push of a frame to the relay's peer ended: `sent` or `failed`.
    pub fn record_relay_push(&self, outcome: &'static str) {
        self.0.relay_pushes.increment([outcome]);
    }

    /// An instance lost its connection and its client reconnects (`connection`), or lost its client, which is replaced
    /// because it did not respond (`zombie`) or ended (`crash`).
    pub fn record_client_loss(&self, cause: &'static str) {
        self.0.client_losses.increment([cause]);
    }

    /// The pairing of a linked device ended: `linked`, `timed_out` or `failed`.
    pub fn record_pairing(&self, outcome: &'static str) {
        self.0.pairings.increment([outcome]);
    }

    /// A limit of the API's connections took effect. A connection was closed for a new one (`replaced`), was refused or its
    /// request was because its peer has its share (`refused`), got 503 in the reserve (`unserved`), or was closed because its
    /// client was slow (`head_timeout`, `idle_timeout`, `write_timeout`).
    pub fn record_connection_limit(&self, limit: &'static str) {
        self.0.connection_limits.increment([limit]);
    }

    /// All series and the given gauges in the OpenMetrics text format.
    pub fn encode(&self, gauges: Vec<GaugeSample>) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.0.registry);
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.insert_str(end, &encode_gauges(gauges));
        text
    }
}

/// The gauges in the text format, without the end marker. Samples with the same name form one family.
fn encode_gauges(gauges: Vec<GaugeSample>) -> String {
    let mut families: Vec<(&'static str, &'static str, GaugeFamily)> = Vec::new();
    for sample in gauges {
        let index = families.iter().position(|(name, ..)| *name == sample.name).unwrap_or_else(|| {
            families.push((sample.name, sample.help, Family::default()));
            families.len() - 1
        });
        if let Some((.., family)) = families.get(index) {
            family.get_or_create(&sample.labels).set(sample.value);
        }
    }
    let mut registry = Registry::default();
    for (name, help, family) in families {
        let name = if name.starts_with("process_") { name.to_owned() } else { format!("relevo_{name}") };
        registry.register(name, help, family);
    }
    let mut text = String::new();
    let _ = encode(&mut text, &registry);
    text.truncate(text.rfind("# EOF").unwrap_or(text.len()));
    text
}

type GaugeFamily = Family<Labels, Gauge<f64, AtomicU64>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_includes_counters_and_gauges() {
        let metrics = Metrics::default();
        metrics.record_accepted("bulk", "async", Duration::from_millis(2));
        metrics.record_attempt("throttled", Some(130_429), Duration::from_millis(40));
        let depth = GaugeSample {
            name: "queue_depth",
            help: "x",
            labels: vec![("instance", "shop".into())],
            value: 3.0,
        };
        let text = metrics.encode(vec![depth]);
        for line in [
            r#"relevo_accepted_messages_total{class="bulk",mode="async"} 1"#,
            r#"relevo_attempts_total{outcome="throttled",code="130429"} 1"#,
            r#"relevo_queue_depth{instance="shop"} 3.0"#,
            "relevo_accept_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(text.matches("# EOF").count(), 1);
    }

    /// Operators' dashboards and alerts depend on every name, label, bucket and help text.
    #[test]
    fn output_is_stable() {
        let metrics = Metrics::default();
        let took = Duration::from_millis(2);
        metrics.record_accepted("bulk", "async", took);
        metrics.record_refused("queue_full");
        metrics.record_commit(3, took);
        metrics.record_attempt("throttled", Some(130_429), took);
        metrics.record_end("sent", Some(took));
        metrics.record_receipt("read", true);
        metrics.record_inbound("event", 2);
        metrics.record_delivery("delivered", took);
        metrics.record_relay_push("sent");
        metrics.record_client_loss("zombie");
        metrics.record_pairing("linked");
        assert_eq!(metrics.encode(vec![]), include_str!("output.txt"));
    }
}
