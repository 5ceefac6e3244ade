//! What is looked up when somebody asks for the metrics.

use crate::bulk;
use crate::instance;
use crate::queue;
use crate::relay;
use crate::webhook;
use relevo_domain::Timestamp;
use relevo_metrics::Reading;
use relevo_store::Store;

/// Reads a few records for each instance: belongs on a blocking thread.
pub(super) fn read(
    instances: &instance::Handle,
    queue: &queue::Handle,
    webhooks: &webhook::Handle,
    relay: &relay::Handle,
    bulk: &bulk::Handle,
    store: &Store,
    now: Timestamp,
) -> Vec<Reading> {
    let mut readings = Vec::new();
    let flag = |set: bool| if set { 1.0 } else { 0.0 };
    for view in instances.list() {
        let labels = || vec![("instance", view.config.id.to_string())];
        let state =
            vec![("instance", view.config.id.to_string()), ("state", view.state.state.as_str().to_owned())];
        readings.push(reading("instance_state", "1 for the state that an instance is in", state, 1.0));
        let restarts = f64::from(view.state.restarts);
        readings.push(reading(
            "instance_restarts",
            "Replacements of a client since the start",
            labels(),
            restarts,
        ));
        let depth = queue.depth(view.number).unwrap_or_default();
        for (class, depth) in [("transactional", depth.transactional), ("bulk", depth.bulk)] {
            let labels = vec![("instance", view.config.id.to_string()), ("class", class.to_owned())];
            readings.push(reading("queue_depth", "Messages not yet settled", labels, count(depth)));
        }
        let oldest = queue.oldest(view.number).ok().flatten();
        let age = oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
        readings.push(reading(
            "queue_oldest_seconds",
            "Age of the oldest message not yet settled",
            labels(),
            age,
        ));
    }
    for endpoint in webhooks.list(None) {
        let labels = || vec![("endpoint", endpoint.id.to_string())];
        let disabled = flag(endpoint.disabled.is_some());
        readings.push(reading("webhook_disabled", "1 for an endpoint that is disabled", labels(), disabled));
    }
    readings.extend(jobs(&bulk.standings(), now));
    let waiting = relay.waiting().unwrap_or_default();
    readings.push(reading("relay_depth", "Frames that wait for the relay", vec![], count(waiting)));
    let age = relay.oldest().ok().flatten().map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
    readings.push(reading("relay_oldest_seconds", "Age of the first frame that waits", vec![], age));
    readings.push(reading("store_bytes", "Size of the database", vec![], count(store.size_on_disk())));
    let full = flag(store.is_full());
    readings.push(reading("store_full", "1 while the disk is too full to accept messages", vec![], full));
    let failed = flag(store.has_failed());
    readings.push(reading(
        "store_failed",
        "1 when a commit failed; the node is about to stop",
        vec![],
        failed,
    ));
    readings.push(reading("store_commits", "Commits since the start", vec![], count(store.commits())));
    readings.extend(process());
    readings
}

/// The bulk jobs that exist, all told: those that were deleted count no more.
fn jobs(standings: &[(Timestamp, bulk::Progress)], now: Timestamp) -> Vec<Reading> {
    let mut readings = Vec::new();
    for status in bulk::Status::ALL {
        let jobs = standings.iter().filter(|(_, progress)| progress.status == status).count();
        let labels = vec![("state", status.as_str().to_owned())];
        readings.push(reading("jobs", "Bulk jobs by state", labels, count(jobs as u64)));
    }
    let rows = |of: fn(&bulk::Counts) -> u32| -> u64 {
        standings.iter().map(|(_, progress)| u64::from(of(&progress.counts))).sum()
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
        readings.push(reading(
            "job_rows",
            "Rows of bulk jobs that have ended, by outcome",
            labels,
            count(rows),
        ));
    }
    let open = |(_, progress): &(_, bulk::Progress)| {
        u64::from(progress.taken.saturating_sub(progress.counts.settled()))
    };
    let open = standings.iter().map(open).sum();
    readings.push(reading("job_rows_open", "Rows of bulk jobs that are in the queue", vec![], count(open)));
    let unfinished = standings.iter().filter(|(_, progress)| !progress.status.is_finished());
    let oldest = unfinished.map(|(created_at, _)| now.since(*created_at)).max().unwrap_or_default();
    let help = "Age of the oldest bulk job that has not finished";
    readings.push(reading("job_oldest_seconds", help, vec![], oldest.as_secs_f64()));
    readings
}

/// The process's own figures, as Linux tells them.
fn process() -> Vec<Reading> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in brackets: user and system time are the 12th and 13th of the rest, in hundredths.
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
        reading(
            "process_resident_memory_bytes",
            "Resident memory",
            vec![],
            count(resident.saturating_mul(1024)),
        ),
        reading("process_cpu_seconds", "User and system time", vec![], count(times.iter().sum()) / 100.0),
        reading(
            "process_open_fds",
            "Open files and sockets",
            vec![],
            count(u64::try_from(files).unwrap_or(0)),
        ),
    ]
}

fn reading(
    name: &'static str,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
) -> Reading {
    Reading { name, help, labels, value }
}

fn count(n: u64) -> f64 {
    // Exact up to 2^53, which none of these reaches.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let value = n as f64;
    value
}
