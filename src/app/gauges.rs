//! Gauges that are sampled when a client reads the metrics.

use crate::bulk;
use crate::instance::InstanceView;
use crate::queue;
use crate::relay;
use crate::webhook;
use relevo_domain::Timestamp;
use relevo_metrics::GaugeSample;
use relevo_store::Store;

use super::handles::Handles;

/// All gauges. Reads a few records of each instance: call it on a blocking thread.
pub(super) fn collect(handles: &Handles, store: &Store, now: Timestamp) -> Vec<GaugeSample> {
    let mut samples = Vec::new();
    for view in handles.instances.list() {
        samples.extend(instance_gauges(&view, &handles.queue, now));
    }
    samples.extend(webhook_gauges(&handles.webhooks));
    samples.extend(job_gauges(&handles.bulk.progress_of_all(), now));
    samples.extend(relay_gauges(&handles.relay, now));
    samples.extend(store_gauges(store));
    samples.extend(process_gauges());
    samples
}

fn instance_gauges(view: &InstanceView, queue: &queue::Handle, now: Timestamp) -> Vec<GaugeSample> {
    let labels = || vec![("instance", view.config.id.to_string())];
    let with_label = |name: &'static str, value: &str| {
        let mut labels = labels();
        labels.push((name, value.to_owned()));
        labels
    };
    let state = with_label("state", view.state.state.as_str());
    let restarts = f64::from(view.state.restarts);
    let mut samples = vec![
        gauge("instance_state", "1 for the state that an instance is in", state, 1.0),
        gauge("instance_restarts", "Replacements of a client since the start", labels(), restarts),
    ];
    let unable_for = view.unable_since.map_or(0.0, |since| now.since(since).as_secs_f64());
    let help = "Time for which an instance that should send could not; 0 while it can";
    samples.push(gauge("instance_unable_seconds", help, labels(), unable_for));
    let depth = queue.depth(view.number).unwrap_or_default();
    for (class, depth) in [("transactional", depth.transactional), ("bulk", depth.bulk)] {
        let labels = with_label("class", class);
        samples.push(gauge("queue_depth", "Messages not yet settled", labels, as_f64(depth)));
    }
    let oldest = queue.oldest_accepted_at(view.number).ok().flatten();
    let age = oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
    let help = "Age of the oldest message not yet settled";
    samples.push(gauge("queue_oldest_seconds", help, labels(), age));
    samples
}

fn webhook_gauges(webhooks: &webhook::Handle) -> Vec<GaugeSample> {
    let mut samples = Vec::new();
    for endpoint in webhooks.list(None) {
        let labels = vec![("endpoint", endpoint.id.to_string())];
        let disabled = flag(endpoint.disabled.is_some());
        samples.push(gauge("webhook_disabled", "1 for an endpoint that is disabled", labels, disabled));
    }
    samples
}

fn relay_gauges(relay: &relay::Handle, now: Timestamp) -> [GaugeSample; 2] {
    let depth = relay.waiting().unwrap_or_default();
    let age = relay.oldest().ok().flatten().map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
    [
        gauge("relay_depth", "Frames that wait for the relay", vec![], as_f64(depth)),
        gauge("relay_oldest_seconds", "Age of the first frame that waits", vec![], age),
    ]
}

fn store_gauges(store: &Store) -> [GaugeSample; 5] {
    let (full, failed) = (flag(store.is_full()), flag(store.has_failed()));
    let damaged = flag(store.is_damaged());
    [
        gauge("store_bytes", "Size of the database", vec![], as_f64(store.size_on_disk())),
        gauge("store_full", "1 while the disk is too full to accept messages", vec![], full),
        gauge("store_failed", "1 when a commit failed; the node is about to stop", vec![], failed),
        gauge("store_damaged", "1 when a read met a damaged part of the database", vec![], damaged),
        gauge("store_commits", "Commits since the start", vec![], as_f64(store.commits())),
    ]
}

/// Totals over the existing bulk jobs; deleted jobs are not counted.
fn job_gauges(jobs: &[(Timestamp, bulk::JobProgress)], now: Timestamp) -> Vec<GaugeSample> {
    let mut samples = Vec::new();
    for status in bulk::JobStatus::ALL {
        let count = jobs.iter().filter(|(_, progress)| progress.status == status).count();
        let labels = vec![("state", status.as_str().to_owned())];
        samples.push(gauge("jobs", "Bulk jobs by state", labels, as_f64(count as u64)));
    }
    let rows = |of: fn(&bulk::RowCounts) -> u32| -> u64 {
        jobs.iter().map(|(_, progress)| u64::from(of(&progress.counts))).sum()
    };
    for (outcome, rows) in [
        ("sent", rows(|counts| counts.sent)),
        (
            "failed",
            rows(|counts| counts.failed.saturating_sub(counts.ambiguous).saturating_sub(counts.invalid)),
        ),
        ("ambiguous", rows(|counts| counts.ambiguous)),
        ("invalid", rows(|counts| counts.invalid)),
        ("skipped", rows(|counts| counts.skipped)),
        ("cancelled", rows(|counts| counts.cancelled)),
    ] {
        let labels = vec![("outcome", outcome.to_owned())];
        samples.push(gauge(
            "job_rows",
            "Rows of bulk jobs that have ended, by outcome",
            labels,
            as_f64(rows),
        ));
    }
    let open = |(_, progress): &(_, bulk::JobProgress)| {
        u64::from(progress.taken.saturating_sub(progress.counts.settled()))
    };
    let open = jobs.iter().map(open).sum();
    samples.push(gauge("job_rows_open", "Rows of bulk jobs that are in the queue", vec![], as_f64(open)));
    let unfinished = jobs.iter().filter(|(_, progress)| !progress.status.is_finished());
    let oldest = unfinished.map(|(created_at, _)| now.since(*created_at)).max().unwrap_or_default();
    let help = "Age of the oldest bulk job that has not finished";
    samples.push(gauge("job_oldest_seconds", help, vec![], oldest.as_secs_f64()));
    samples
}

/// Memory, CPU time and open files of this process, from `/proc/self`.
fn process_gauges() -> Vec<GaugeSample> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // proc(5): utime and stime are the 12th and 13th field after the name in brackets, in hundredths of a second.
    let times: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let resident: u64 = resident.unwrap_or(0);
    vec![
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            vec![],
            as_f64(resident.saturating_mul(1024)),
        ),
        gauge("process_cpu_seconds", "User and system time", vec![], as_f64(times.iter().sum()) / 100.0),
        gauge(
            "process_open_fds",
            "Open files and sockets",
            vec![],
            as_f64(u64::try_from(files).unwrap_or(0)),
        ),
    ]
}

fn gauge(
    name: &'static str,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
) -> GaugeSample {
    GaugeSample { name, help, labels, value }
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

fn as_f64(n: u64) -> f64 {
    // Exact up to 2^53, which no gauge reaches.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let value = n as f64;
    value
}
