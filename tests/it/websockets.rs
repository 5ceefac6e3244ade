//! WebSockets: what a client that breaks the protocol gets, and what a reader costs.

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::event_readers::{TIMEOUT, socket};
use crate::support::process::{Process, ask};
use crate::support::{KEY, World};

/// The close code that the node answers to these raw bytes.
async fn close_code_after(world: &World, bytes: &[u8]) -> u16 {
    let mut stream = socket(world, "/ws").await.into_inner();
    stream.write_all(bytes).await.unwrap();
    let mut head = [0; 4];
    tokio::time::timeout(TIMEOUT, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[0], 0x88, "no close frame: {head:?}");
    u16::from_be_bytes([head[2], head[3]])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn client_that_breaks_the_protocol_gets_a_close_frame() {
    let world = World::empty(|_| {}).await;
    let oversized = [&[0x82, 0xff][..], &100_000_u64.to_be_bytes(), &[0; 4], &[b'x'; 5000]].concat();
    let cases: [(&[u8], u16, &str); 7] = [
        (&[0x81, 0x01, b'x'], 1002, "a frame without a mask"),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002, "a reserved opcode"),
        (&[0xc1, 0x80, 0, 0, 0, 0], 1002, "a reserved bit"),
        (&[0x80, 0x80, 0, 0, 0, 0], 1002, "a continuation of nothing"),
        (&[0x09, 0x80, 0, 0, 0, 0], 1002, "a fragmented ping"),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007, "a text that is not UTF-8"),
        (&oversized, 1009, "an oversized frame"),
    ];
    for (bytes, code, what) in cases {
        assert_eq!(close_code_after(&world, bytes).await, code, "{what}");
    }
}

/// Resident memory of a process, in bytes (proc(5)).
fn resident_memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idle_socket_takes_little_memory() {
    const READERS: usize = 400;
    const LIMIT: usize = 24 << 10;
    let data = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let node = Process::start_with(address, data.path(), &[("RELEVO_HTTP__MAX_STREAMS", "1000")]);
    ask(&reqwest::Client::new(), address, Method::GET, "/health", None).await;
    let open_sockets = async |count: usize| {
        let mut sockets = Vec::new();
        for _ in 0..count {
            let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
            request.headers_mut().insert("x-api-key", KEY.parse().unwrap());
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
            // Its reader runs when the pong arrives.
            socket.send(Message::Ping("x".into())).await.unwrap();
            socket.next().await.unwrap().unwrap();
            sockets.push(socket.into_inner());
        }
        sockets
    };
    let _warm = open_sockets(100).await;
    let before = resident_memory(node.id());
    let _readers = open_sockets(READERS).await;
    let each = resident_memory(node.id()).saturating_sub(before) / READERS;
    assert!(each <= LIMIT, "{each} bytes for each reader");
}
