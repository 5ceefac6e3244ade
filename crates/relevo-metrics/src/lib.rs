//! What the node counts and times, in the words of Prometheus.
//!
//! One [`Metrics`] is made by whoever starts the node and handed to the rooms; cloning it shares the numbers, and two
//! nodes in one process count apart. What can be read off (queue depth, instance states, the process) is not kept
//! here: it is looked up when somebody asks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Labels = Vec<(&'static str, String)>;

/// The counters and histograms of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Series>);

#[derive(Debug)]
struct Series {
    accepted: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    accept: Histogram,
    commit: Histogram,
    commit_changes: Histogram,
    attempts: Family<Labels, Counter>,
    send: Histogram,
    end_to_end: Histogram,
    fates: Family<Labels, Counter>,
    receipts: Family<Labels, Counter>,
    inbound: Family<Labels, Counter>,
    deliveries: Family<Labels, Counter>,
    delivery: Histogram,
    relayed: Family<Labels, Counter>,
    client_losses: Family<Labels, Counter>,
    pairings: Family<Labels, Counter>,
}

/// From a tenth of a millisecond to a minute and a half, by about two and a half.
const DURATION_BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 90.0];

/// From one to a thousand.
const COUNT_BUCKETS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 512.0, 1024.0];

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(DURATION_BUCKETS);
        Self(Arc::new(Series {
            accepted: Family::default(),
            refused: Family::default(),
            accept: seconds(),
            commit: seconds(),
            commit_changes: Histogram::new(COUNT_BUCKETS),
            attempts: Family::default(),
            send: seconds(),
            end_to_end: seconds(),
            fates: Family::default(),
            receipts: Family::default(),
            inbound: Family::default(),
            deliveries: Family::default(),
            delivery: seconds(),
            relayed: Family::default(),
            client_losses: Family::default(),
            pairings: Family::default(),
        }))
    }
}

/// One number that is looked up when somebody asks.
#[derive(Debug, Clone)]
pub struct GaugeSample {
    /// Without the prefix `relevo_`, or whole when it begins with `process_`.
    pub name: &'static str,
    pub help: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

impl Metrics {
    /// A message was taken in; how long its caller waited for the disk.
    pub fn record_accepted(&self, class: &'static str, mode: &'static str, took: Duration) {
        self.0.accepted.get_or_create(&vec![("class", class.into()), ("mode", mode.into())]).inc();
        self.0.accept.observe(took.as_secs_f64());
    }

    /// A message was not taken in.
    pub fn record_refused(&self, reason: &'static str) {
        self.0.refused.get_or_create(&vec![("reason", reason.into())]).inc();
    }

    /// A commit became durable: so many closures, so long.
    pub fn record_commit(&self, changes: usize, took: Duration) {
        self.0.commit.observe(took.as_secs_f64());
        self.0.commit_changes.observe(f64::from(u32::try_from(changes).unwrap_or(u32::MAX)));
    }

    /// An attempt ended. `code` is the provider's own, where it gave one.
    pub fn record_attempt(&self, outcome: &'static str, code: Option<i64>, took: Duration) {
        let code = code.map_or_else(String::new, |code| code.to_string());
        self.0.attempts.get_or_create(&vec![("outcome", outcome.into()), ("code", code)]).inc();
        self.0.send.observe(took.as_secs_f64());
    }

    /// A message came to an end; for one that was sent, how long after it was accepted.
    pub fn record_end(&self, fate: &'static str, since_accepted: Option<Duration>) {
        self.0.fates.get_or_create(&vec![("fate", fate.into())]).inc();
        if let Some(took) = since_accepted {
            self.0.end_to_end.observe(took.as_secs_f64());
        }
    }

    /// WhatsApp reported a fact about a message.
    pub fn record_receipt(&self, kind: &'static str, changed: bool) {
        let changed = if changed { "yes" } else { "no" };
        self.0.receipts.get_or_create(&vec![("kind", kind.into()), ("changed", changed.into())]).inc();
    }

    /// Something came in, through Meta's webhook or on a linked device's connection. Parts of deliveries that were taken are `event`, `duplicate` or
    /// `odd`; deliveries that were not are `forged`, `too_large`, or `refused` because they could not be kept.
    pub fn record_inbound(&self, kind: &'static str, count: u64) {
        self.0.inbound.get_or_create(&vec![("kind", kind.into())]).inc_by(count);
    }

    /// A webhook delivery was tried: `delivered`, `failed` or `refused`.
    pub fn record_delivery(&self, outcome: &'static str, took: Duration) {
        self.0.deliveries.get_or_create(&vec![("outcome", outcome.into())]).inc();
        self.0.delivery.observe(took.as_secs_f64());
    }

    /// A frame was pushed to the relay's peer: `sent` or `failed`.
    pub fn record_relay_push(&self, outcome: &'static str) {
        self.0.relayed.get_or_create(&vec![("outcome", outcome.into())]).inc();
    }

    /// An instance lost its connection, and its client connects again (`connection`); or its client, which is replaced: it
    /// gave no sign of life (`zombie`), or ended by itself (`crash`).
    pub fn record_client_loss(&self, cause: &'static str) {
        self.0.client_losses.get_or_create(&vec![("cause", cause.into())]).inc();
    }

    /// Pairing a linked device ended: `linked`, `timed_out` or `failed`.
    pub fn record_pairing(&self, outcome: &'static str) {
        self.0.pairings.get_or_create(&vec![("outcome", outcome.into())]).inc();
    }

    /// Everything in the text format of OpenMetrics, with what was looked up for the occasion.
    pub fn encode(&self, readings: Vec<GaugeSample>) -> String {
        let mut registry = Registry::with_prefix("relevo");
        let series = &*self.0;
        registry.register("accepted_messages", "Messages taken in", series.accepted.clone());
        registry.register("refused_messages", "Messages not taken in, by reason", series.refused.clone());
        let mut time = |name: &'static str, help: &'static str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        time("accept", "From a message's arrival until it was durable", &series.accept);
        time("commit", "One commit of the store, fsync included", &series.commit);
        time("send", "One attempt at WhatsApp", &series.send);
        time("end_to_end", "From a message's acceptance until WhatsApp took it", &series.end_to_end);
        time("delivery", "One webhook delivery", &series.delivery);
        registry.register("commit_changes", "Changes that shared one commit", series.commit_changes.clone());
        registry.register("attempts", "Attempts at WhatsApp, by outcome and code", series.attempts.clone());
        registry.register("messages", "Messages that came to an end, by fate", series.fates.clone());
        registry.register("receipts", "Facts that WhatsApp reported", series.receipts.clone());
        registry.register("inbound", "What came in from WhatsApp", series.inbound.clone());
        registry.register("deliveries", "Webhook deliveries, by outcome", series.deliveries.clone());
        registry.register(
            "client_losses",
            "Connections and clients that were lost",
            series.client_losses.clone(),
        );
        registry.register("pairings", "Attempts to pair a linked device", series.pairings.clone());
        registry.register("relayed", "Attempts to push a frame to the relay's peer", series.relayed.clone());
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &registry);
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.insert_str(end, &encode_gauges(readings));
        text
    }
}

fn encode_gauges(readings: Vec<GaugeSample>) -> String {
    let mut families: Vec<(&'static str, &'static str, GaugeFamily)> = Vec::new();
    for reading in readings {
        let at = families.iter().position(|(name, ..)| *name == reading.name).unwrap_or_else(|| {
            families.push((reading.name, reading.help, Family::default()));
            families.len() - 1
        });
        if let Some((.., family)) = families.get(at) {
            family.get_or_create(&reading.labels).set(reading.value);
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
}
