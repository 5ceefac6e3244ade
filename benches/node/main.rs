//! Benchmarks of the whole binary, compared with lower bounds (floors) that are measured in the same run.
//!
//! Timed: requests over keep-alive connections from this process, until their answers are read completely. Not timed:
//! starting processes, creating instances, connecting. Client, node, Graph server and disk share the machine, for the
//! floors as for the node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures real time and chooses its binary by the environment"
)]

mod floors;
mod jobs;
mod load;
mod process;

use std::time::{Duration, Instant};

use load::Load;
use process::{Node, Sandbox};

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
const SECONDS: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() {
    // The clients of this process need a provider, although all traffic is plain HTTP on loopback.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // The data lies beside the sources, because /tmp may be memory and the benchmark measures a disk.
    let dir = tempfile::tempdir_in(".").unwrap();
    println!(
        "relevo {} on {} cores",
        env!("CARGO_PKG_VERSION"),
        std::thread::available_parallelism().unwrap()
    );
    let only =
        |name: &str| arguments.iter().all(|argument| !argument.starts_with("--only-") || argument == name);
    if only("") {
        accepts(dir.path()).await;
        sends_and_drain(dir.path()).await;
    }
    if only("--only-jobs") {
        let cost = jobs::race(dir.path()).await;
        jobs::beside(dir.path(), cost).await;
    }
    if has("--million") || has("--only-million") {
        million(dir.path()).await;
    }
}

/// Durable accepts a second, compared with a bare handler and a bare group commit at the same number of connections.
async fn accepts(dir: &std::path::Path) {
    println!(
        "\naccepts/s            bare axum   bare commit    relevo  of lower floor   p50 ms   p99 ms   CPU µs"
    );
    let sandbox = Sandbox::start();
    let node = Node::start(&dir.join("accepts"));
    println!("(idle: {:.1} MiB resident)", node.rss_mib());
    node.create_instance(&sandbox, 10_000.0).await;
    node.disconnect().await;
    let bare = floors::BareAxum::start().await;
    for connections in CONNECTIONS {
        let axum = Load::queued(bare.address, connections, 0).run(SECONDS).await;
        let commit =
            floors::group_commit(&dir.join(format!("floor-{connections}")), connections, SECONDS).await;
        let cpu = node.cpu();
        let run = Load::queued(node.address, connections, 1_000_000 * connections as u64).run(SECONDS).await;
        let cpu = (node.cpu() - cpu).as_secs_f64() * 1e6 / run.count as f64;
        let floor = axum.per_second().min(commit);
        println!(
            "{connections:>4} connections   {:>11.0} {:>13.0} {:>9.0} {:>14.0}% {:>8.2} {:>8.2} {cpu:>8.0}",
            axum.per_second(),
            commit,
            run.per_second(),
            100.0 * run.per_second() / floor,
            run.percentile_ms(0.50),
            run.percentile_ms(0.99),
        );
    }
    println!("({} MiB resident after)", node.rss_mib().round());
}

/// Synchronous sends and the drain of a queue, compared with bare reqwest loops on the same Graph server.
async fn sends_and_drain(dir: &std::path::Path) {
    let sandbox = Sandbox::start();
    let node = Node::start(&dir.join("sends"));
    node.create_instance(&sandbox, 10_000.0).await;
    println!("\nsynchronous sends/s  bare reqwest    relevo    ratio   p50 ms   p99 ms   CPU µs");
    for connections in [1, 16, 64] {
        let bare = floors::bare_reqwest(sandbox.address, connections, SECONDS).await;
        let cpu = node.cpu();
        let run = Load::synchronous(node.address, connections, 5_000_000_000).run(SECONDS).await;
        let cpu = (node.cpu() - cpu).as_secs_f64() * 1e6 / run.count as f64;
        println!(
            "{connections:>4} connections   {bare:>12.0} {:>9.0} {:>7.0}% {:>8.2} {:>8.2} {cpu:>8.0}",
            run.per_second(),
            100.0 * run.per_second() / bare,
            run.percentile_ms(0.50),
            run.percentile_ms(0.99),
        );
    }
    node.disconnect().await;
    let queued = Load::queued(node.address, 64, 7_000_000_000).count(40_000).await;
    let bare = floors::bare_reqwest(sandbox.address, 10, SECONDS).await;
    let (cpu, started) = (node.cpu(), Instant::now());
    node.connect().await;
    node.until_empty().await;
    let elapsed = started.elapsed().as_secs_f64();
    let rate = queued.count as f64 / elapsed;
    let cpu = (node.cpu() - cpu).as_secs_f64() * 1e6 / queued.count as f64;
    println!(
        "\ndrain of {} messages, 10 workers: {rate:.0}/s, {:.0}% of 10 bare reqwest loops ({bare:.0}/s), {cpu:.0} µs CPU each",
        queued.count,
        100.0 * rate / bare
    );
}

/// Memory and disk use of a million queued messages, before and after their drain.
async fn million(dir: &std::path::Path) {
    let sandbox = Sandbox::start();
    let node = Node::start(&dir.join("million"));
    node.create_instance(&sandbox, 10_000.0).await;
    node.disconnect().await;
    println!("\nidle: {:.1} MiB resident", node.rss_mib());
    let queued = Load::queued(node.address, 256, 0).count(1_000_000).await;
    println!(
        "1,000,000 queued at {:.0}/s: {:.0} MiB resident, {:.0} MiB on disk",
        queued.per_second(),
        node.rss_mib(),
        node.disk_mib()
    );
    let started = Instant::now();
    node.connect().await;
    node.until_empty().await;
    println!(
        "drained at {:.0}/s: {:.0} MiB resident (peak {:.0}), {:.0} MiB on disk",
        queued.count as f64 / started.elapsed().as_secs_f64(),
        node.rss_mib(),
        node.peak_rss_mib(),
        node.disk_mib()
    );
}
