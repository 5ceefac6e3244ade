//! Bulk jobs compared with single messages.
//!
//! `race` times how fast the rows of a job and queued single messages reach the Graph server, alternately on the same
//! node. The time of a job includes its upload and the commit of its last row. `beside` times synchronous sends at a
//! fixed rate, from the time at which each is due until WhatsApp's id is in the answer; turns alone alternate with turns
//! beside two jobs, at a rate that leaves half of the machine idle.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::{Load, Run};
use crate::process::{Node, Sandbox, own_cpu};

/// Number of messages of each kind in one lap.
const LAP: u32 = 20_000;
const LAPS: u64 = 5;

/// Synchronous sends a second. Each turn lasts `SECONDS`.
const STREAM: u32 = 100;
const SECONDS: Duration = Duration::from_secs(10);
const TURNS: u64 = 5;

/// Number of steps that approximate the rate of the jobs.
const STEPS: u64 = 3;

/// Number of rows of a job, more than are sent while the stream is timed.
const ENDLESS: u32 = 300_000;

/// Compares the drain of queued single messages with that of a job. Returns the CPU seconds of one row, of node and Graph
/// server together.
pub async fn race(dir: &Path) -> f64 {
    let sandbox = Sandbox::start();
    let node = Node::start(&dir.join("race"));
    node.create_instance(&sandbox, 100_000.0).await;
    println!(
        "\n        queued singles/s   CPU µs   rows of a job/s   CPU µs    ratio   (CPU of node and Graph server, each)"
    );
    let (mut ratios, mut costs) = (Vec::new(), Vec::new());
    for lap in 0..LAPS {
        node.disconnect().await;
        Load::queued(node.address, 64, lap * 1_000_000).count(u64::from(LAP)).await;
        let cpu = || node.cpu() + sandbox.cpu();
        let (before, started) = (cpu(), Instant::now());
        node.connect().await;
        node.until_empty().await;
        let (singles, between, again) = (per_second(started), cpu(), Instant::now());
        let job = node.create_job(LAP, 500_000_000 + lap * 1_000_000).await;
        node.until_job_ends(&job).await;
        let (rows, after) = (per_second(again), cpu());
        let cost = |spent: Duration| spent.as_secs_f64() / f64::from(LAP);
        let (single, row) = (cost(between - before), cost(after - between));
        println!(
            "lap {}  {singles:>15.0} {:>8.0} {rows:>17.0} {:>8.0} {:>7.0}%",
            lap + 1,
            single * 1e6,
            row * 1e6,
            100.0 * rows / singles
        );
        ratios.push(rows / singles);
        costs.push(row);
    }
    println!("median of the ratios: {:.0} %", 100.0 * median(&mut ratios));
    median(&mut costs)
}

/// Times a stream of synchronous sends alone and beside two jobs. Stream and jobs together use half of the machine. The
/// two cases alternate, because the machine may have other work at any time. `cost`: CPU seconds of one row.
pub async fn beside(dir: &Path, cost: f64) {
    let sandbox = Sandbox::start();
    let node = Node::start(&dir.join("beside"));
    println!(
        "\nsynchronous sends, {STREAM}/s       p50 ms   p99 ms  max ms   rows/s beside         CPU of all three"
    );
    node.create_instance(&sandbox, 10_000.0).await;
    let (_, sends_share) = stream(&node, &sandbox, "(sends only)", 900_000_000, &[]).await;
    let mut rate = (0.5 - sends_share) * cores() / cost;
    node.limit(rate + f64::from(STREAM), STREAM).await;
    let jobs = [node.create_job(ENDLESS, 600_000_000).await, node.create_job(ENDLESS, 700_000_000).await];
    // A row costs more when fewer rows share a commit, so the rate is approximated in steps.
    for step in 0..STEPS {
        let (_, total_share) =
            stream(&node, &sandbox, "(sends and jobs)", 910_000_000 + step * 1_000_000, &jobs).await;
        rate *= (0.5 - sends_share) / (total_share - sends_share);
        node.limit(rate + f64::from(STREAM), STREAM).await;
    }
    let (mut alone, mut crowded) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        node.command_jobs(&jobs, "pause").await;
        let (run, _) = stream(&node, &sandbox, "alone", turn * 2_000_000, &jobs).await;
        alone.push(run.percentile_ms(0.99));
        node.command_jobs(&jobs, "resume").await;
        let first_phone = turn * 2_000_000 + 1_000_000;
        let (run, _) = stream(&node, &sandbox, "beside two jobs", first_phone, &jobs).await;
        crowded.push(run.percentile_ms(0.99));
    }
    node.command_jobs(&jobs, "cancel").await;
    let (alone, crowded) = (median(&mut alone), median(&mut crowded));
    println!(
        "medians of p99: {alone:.2} ms alone, {crowded:.2} ms beside two jobs: {:.2} times",
        crowded / alone
    );
}

/// Runs the stream. Also returns the share of the machine that node, Graph server and this process used.
async fn stream(node: &Node, sandbox: &Sandbox, name: &str, first_phone: u64, jobs: &[String]) -> (Run, f64) {
    let cpu = || node.cpu() + sandbox.cpu() + own_cpu();
    let (before, sent, started) = (cpu(), node.sent_of(jobs).await, Instant::now());
    let run = Load::synchronous(node.address, 8, first_phone).paced(STREAM).run(SECONDS).await;
    let seconds = started.elapsed().as_secs_f64();
    let rows = (node.sent_of(jobs).await - sent) as f64 / seconds;
    let cpu = (cpu() - before).as_secs_f64() / seconds / cores();
    println!(
        "{name:<27} {:>11.2} {:>8.2} {:>8.2} {rows:>14.0} {:>15.0}% of {} cores",
        run.percentile_ms(0.5),
        run.percentile_ms(0.99),
        run.percentile_ms(1.0),
        100.0 * cpu,
        cores()
    );
    (run, cpu)
}

fn cores() -> f64 {
    std::thread::available_parallelism().unwrap().get() as f64
}

fn per_second(since: Instant) -> f64 {
    f64::from(LAP) / since.elapsed().as_secs_f64()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
