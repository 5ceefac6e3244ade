//! Load over keep-alive connections, each of which sends one request after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::KEY;

/// The description of a load.
pub struct Load {
    address: SocketAddr,
    connections: usize,
    head: &'static str,
    accepted: &'static str,
    /// The first phone number. Each message has the next number, and thus a separate lane.
    first_phone: u64,
    /// Interval of the requests of one connection. A request waits for the answer to the previous one.
    every: Option<Duration>,
}

/// The measurements of a finished load.
pub struct Run {
    pub count: u64,
    elapsed: Duration,
    latencies: Vec<u32>,
}

impl Load {
    /// Queued sends.
    pub fn queued(address: SocketAddr, connections: usize, first_phone: u64) -> Self {
        Self {
            address,
            connections,
            head: "X-Async: true\r\n",
            accepted: "HTTP/1.1 202",
            first_phone,
            every: None,
        }
    }

    /// Synchronous sends.
    pub fn synchronous(address: SocketAddr, connections: usize, first_phone: u64) -> Self {
        Self { address, connections, head: "", accepted: "HTTP/1.1 200", first_phone, every: None }
    }

    /// Limits the load to `per_second` requests over all connections. The latency of a late request counts from the time
    /// at which it was due.
    pub fn paced(self, per_second: u32) -> Self {
        let every = Duration::from_secs(u64::try_from(self.connections).unwrap()) / per_second;
        Self { every: Some(every), ..self }
    }

    /// Sends requests for the given time.
    pub async fn run(self, time: Duration) -> Run {
        self.drive(u64::MAX, Instant::now() + time).await
    }

    /// Sends `count` requests.
    pub async fn count(self, count: u64) -> Run {
        self.drive(count, Instant::now() + Duration::from_secs(3600)).await
    }

    async fn drive(self, count: u64, until: Instant) -> Run {
        let next = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let mut connections = tokio::task::JoinSet::new();
        for connection in 0..u32::try_from(self.connections).unwrap() {
            // The due times of the connections are spread evenly over the interval.
            let mut due = self.every.map(|every| started + every * connection / self.connections as u32);
            let every = self.every.unwrap_or_default();
            let (next, first) = (next.clone(), self.first_phone);
            let (address, head, accepted) = (self.address, self.head, self.accepted);
            connections.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut latencies = Vec::new();
                let mut buffer = vec![0u8; 4096];
                while Instant::now() < until {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    let request = request(head, 100_000_000_000 + first + n);
                    let mut sent = Instant::now();
                    if let Some(due) = &mut due {
                        // A late request counts from its due time. An early one counts from the end of the sleep, so
                        // that the inaccuracy of the timer does not count.
                        if *due > sent {
                            tokio::time::sleep_until((*due).into()).await;
                            sent = Instant::now();
                        } else {
                            sent = *due;
                        }
                        *due += every;
                    }
                    stream.write_all(request.as_bytes()).await.unwrap();
                    read_answer(&mut stream, &mut buffer, accepted).await;
                    latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                latencies
            });
        }
        let mut latencies: Vec<u32> = connections.join_all().await.into_iter().flatten().collect();
        let elapsed = started.elapsed();
        latencies.sort_unstable();
        Run { count: latencies.len() as u64, elapsed, latencies }
    }
}

impl Run {
    /// Requests a second.
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }

    /// Latency at a rank from 0 to 1, in milliseconds.
    pub fn percentile_ms(&self, rank: f64) -> f64 {
        let at = (self.latencies.len() as f64 * rank) as usize;
        f64::from(self.latencies[at.min(self.latencies.len() - 1)]) / 1000.0
    }
}

const TEXT: &str =
    "Hola, tu pedido ha salido de nuestro almacén y llegará mañana entre las nueve y las doce.";

fn request(head: &str, phone: u64) -> String {
    let body = format!("{{\"phone\":\"{phone}\",\"message\":\"{TEXT}\"}}");
    format!(
        "POST /instances/bench/messages/text HTTP/1.1\r\nHost: bench\r\nX-API-Key: {KEY}\r\n{head}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8], accepted: &str) {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(read > 0, "the server closed the connection");
        filled += read;
        let text = String::from_utf8_lossy(&buffer[..filled]);
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let head = text[..end].to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        if filled >= end + 4 + length {
            assert!(text.starts_with(accepted), "{text}");
            return;
        }
    }
}
