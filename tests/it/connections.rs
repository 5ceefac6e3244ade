//! Connections: floods of clients that prove nothing do not keep others out, and the limits of peers and proxies.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::support::{Answer, KEY, World, eventually};

/// More than the node has places for.
const FLOOD: usize = 2000;

/// Maximum time until others are answered.
const OTHERS_LIMIT: Duration = Duration::from_secs(5);

/// Two descriptors of this process for each connection of a flood, and those of other tests.
const OPEN_FILES: u64 = 16_384;

fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = rustix::process::Rlimit { current: Some(wanted), maximum: limit.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    }
}

/// Opens a connection and sends these bytes; `None` when the node closed it meanwhile.
async fn connect_and_send(world: &World, bytes: &[u8]) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    // A small buffer, so that a client that does not read blocks the node soon.
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut stream = socket.connect(world.node.address).await.ok()?;
    stream.write_all(bytes).await.ok()?;
    Some(stream)
}

/// Connections that send these bytes and nothing more. They stay open on this side.
async fn flood(world: &World, connections: usize, bytes: &[u8]) -> Vec<TcpStream> {
    raise_file_limit();
    let clients: Vec<_> = (0..connections).map(|_| connect_and_send(world, bytes)).collect();
    join_all(clients).await.into_iter().flatten().collect()
}

/// Clients with new connections are answered at once, with and without the key. Takes at most a second on a machine of its
/// own; the limit is higher because the tests run beside each other.
async fn assert_others_are_served(world: &World) {
    for _ in 0..10 {
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        for path in ["/health", "/instances", "/metrics"] {
            let began = Instant::now();
            let request = client.get(format!("http://{}{path}", world.node.address));
            let answer = Answer::of(request.header("X-API-Key", KEY)).await;
            let took = began.elapsed();
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            assert!(took < OTHERS_LIMIT, "{path} was answered after {took:?}");
        }
    }
}

async fn counted(world: &World, limit: &str) -> u64 {
    let metrics = world.get("/metrics").await.body;
    let series = format!("relevo_connection_limits_total{{limit=\"{limit}\"}} ");
    let line = metrics.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_do_not_keep_others_out() {
    let world = World::empty(|_| {}).await;
    for bytes in [&b""[..], b"GET /instances HTTP/1.1\r\nHost: x\r\n"] {
        let held = flood(&world, FLOOD, bytes).await;
        assert_others_are_served(&world).await;
        assert!(counted(&world, "replaced").await > 0);
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_keep_others_out() {
    let world = World::empty(|_| {}).await;
    let held = flood(&world, FLOOD, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_others_are_served(&world).await;
    assert!(counted(&world, "replaced").await > 0);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_without_a_key_do_not_keep_others_out() {
    let world = World::new().await;
    let signature = format!("sha256={}", "0".repeat(64));
    for path in ["/webhook", "/instances/shop/cloud-webhook", "/instances"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\nX-Hub-Signature-256: {signature}\r\n\r\n"
        );
        let held = flood(&world, FLOOD, &[head.as_bytes(), &[b' '; 1000]].concat()).await;
        assert_others_are_served(&world).await;
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_do_not_keep_others_out() {
    // Fewer than elsewhere: each fills buffers of the kernel.
    const PLACES: usize = 200;
    let world = World::empty(|settings| settings.http.max_connections = PLACES).await;
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20);
    let held = flood(&world, 2 * PLACES, &request).await;
    assert_others_are_served(&world).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn silent_client_is_disconnected() {
    let world = World::empty(|settings| {
        settings.http.head_timeout = Duration::from_millis(300);
        settings.http.idle_timeout = Duration::from_secs(2);
        settings.http.stream_patience = Duration::from_secs(2);
    })
    .await;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    // The head, in time for the idle limit but not for its own.
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n"] {
        let (began, mut rest) = (Instant::now(), Vec::new());
        let mut stream = connect_and_send(&world, bytes).await.unwrap();
        stream.read_to_end(&mut rest).await.unwrap();
        let took = began.elapsed();
        assert!(rest.is_empty() && took >= Duration::from_millis(300), "{took:?}");
    }
    let mut idle = connect_and_send(&world, request).await.unwrap();
    let (began, mut answer) = (Instant::now(), Vec::new());
    idle.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && began.elapsed() >= Duration::from_secs(2));
    let mut unread =
        connect_and_send(&world, &b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100)).await;
    eventually("the client that does not read to be disconnected", async || {
        match counted(&world, "write_timeout").await {
            0 => Err("not yet"),
            _ => Ok(()),
        }
    })
    .await;
    drop(unread.take());
    assert!(counted(&world, "head_timeout").await >= 2);
    assert!(counted(&world, "idle_timeout").await >= 1);
}

/// A request with the key whose body does not end.
async fn hold_place(world: &World) -> TcpStream {
    let head =
        format!("POST /instances HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 10\r\n\r\n{{");
    connect_and_send(world, head.as_bytes()).await.unwrap()
}

/// The answer to a request on a new connection.
async fn ask(world: &World, method: Method, path: &str) -> Answer {
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let request = client.request(method, format!("http://{}{path}", world.node.address));
    Answer::of(request.header("X-API-Key", KEY)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reserve_serves_probes_and_webhooks_while_key_holders_use_every_place() {
    let world = World::empty(|settings| {
        settings.http.max_connections = 3;
        settings.http.reserved_connections = 2;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(hold_place(&world).await);
    }
    eventually("every place to be used", async || {
        let refused = ask(&world, Method::GET, "/instances").await;
        if refused.status == 503 { Ok(()) } else { Err(refused) }
    })
    .await;
    let refused = ask(&world, Method::GET, "/instances").await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.body["error"]["type"], "unavailable");
    assert_eq!(ask(&world, Method::GET, "/api/status").await.body["type"], "unavailable");
    assert_eq!(ask(&world, Method::GET, "/health").await.status, 200);
    assert_eq!(ask(&world, Method::GET, "/api/health").await.status, 200);
    assert_eq!(ask(&world, Method::POST, "/webhook").await.status, 200);
    // A key holder's request is never closed for another one.
    for mut stream in held {
        stream.write_all(b"        }").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
    assert_eq!(ask(&world, Method::GET, "/instances").await.status, 200);
    assert!(counted(&world, "unserved").await >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn client_of_a_trusted_proxy_has_a_share_of_its_own() {
    let world = World::empty(|settings| {
        settings.http.trusted_proxies =
            relevo::http::TrustedProxies::new(vec!["127.0.0.1/32".parse().unwrap()]);
        settings.http.max_connections_per_peer = std::num::NonZeroUsize::new(2);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let head = format!(
            "POST /instances HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nX-Forwarded-For: 10.1.1.1, 192.0.2.7\r\n\
             Content-Length: 10\r\n\r\n{{"
        );
        held.push(connect_and_send(&world, head.as_bytes()).await.unwrap());
    }
    let of_client = async |client: &str| {
        Answer::of(world.request(Method::GET, "/instances").header("X-Forwarded-For", client)).await
    };
    let refused = eventually("the client to have its share", async || {
        let answer = of_client("192.0.2.7").await;
        if answer.status == 429 { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(of_client("192.0.2.8").await.status, 200);
    // The client may write what it wants before the address that the proxy appends.
    assert_eq!(of_client("192.0.2.8, 192.0.2.7").await.status, 429);
    assert_eq!(of_client("192.0.2.7, 192.0.2.8").await.status, 200);
    assert_eq!(world.get("/instances").await.status, 200);
    assert!(counted(&world, "refused").await >= 2);
    drop(held);
    eventually("the share to be free", async || {
        let answer = of_client("192.0.2.7").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    // Without trusted proxies, the header has no effect.
    let world = World::empty(|settings| {
        settings.http.max_connections_per_peer = std::num::NonZeroUsize::new(1);
    })
    .await;
    let _held = hold_place(&world).await;
    let request = world.request(Method::GET, "/instances").header("X-Forwarded-For", "192.0.2.7");
    assert_eq!(Answer::of(request).await.body, json!({ "success": true, "data": [], "total": 0 }));
}
