//! Linked devices with a proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Linked;
use crate::support::eventually;

/// A proxy for SOCKS5 without a password and for HTTP requests with absolute URLs, which `ws://` uses.
struct Proxy {
    address: SocketAddr,
    used: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, used) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&used);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(client));
            }
        });
        Self { address, used }
    }
}

/// Serves one connection. Any error ends it.
async fn serve(mut client: TcpStream) -> Option<()> {
    let mut first = [0];
    client.peek(&mut first).await.ok()?;
    let mut server = if first == [5] { socks(&mut client).await? } else { http(&mut client).await? };
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

/// SOCKS5 (RFC 1928): reads the greeting and a request to connect to an IPv4 address.
async fn socks(client: &mut TcpStream) -> Option<TcpStream> {
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting).await.ok()?;
    let mut methods = vec![0; usize::from(greeting[1])];
    client.read_exact(&mut methods).await.ok()?;
    client.write_all(&[5, 0]).await.ok()?;
    let mut request = [0; 10];
    client.read_exact(&mut request).await.ok()?;
    assert_eq!(request[..4], [5, 1, 0, 1], "not a request to connect to an IPv4 address");
    let address = Ipv4Addr::new(request[4], request[5], request[6], request[7]);
    let server = TcpStream::connect((address, u16::from_be_bytes([request[8], request[9]]))).await.ok()?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    Some(server)
}

/// Forwards a request with an absolute URL unchanged to the host of the URL.
async fn http(client: &mut TcpStream) -> Option<TcpStream> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let line = String::from_utf8_lossy(&head).into_owned();
    let authority = line.split_once("http://")?.1.split('/').next()?.to_owned();
    let mut server = TcpStream::connect(authority).await.ok()?;
    server.write_all(&head).await.ok()?;
    Some(server)
}

async fn create(linked: &Linked, id: &str, proxy: &str) {
    let instance = json!({ "instance_id": id, "linked_device": { "proxy": proxy } });
    let created = linked.world.post("/instances", instance).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert!(
        !created.body.to_string().contains(proxy),
        "the answer shows the proxy, which may have a password: {created:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn device_pairs_and_receives_through_its_proxy() {
    let linked = Linked::new().await;
    let friend = linked.web.phone("573009998877");
    for (id, scheme, number) in [("socks", "socks5", "573001112233"), ("http", "http", "573004445566")] {
        let proxy = Proxy::start().await;
        create(&linked, id, &format!("{scheme}://{}", proxy.address)).await;
        let phone = linked.web.phone(number);
        phone.scan(&linked.code(id).await).unwrap();
        linked.world.until_state(id, "connected").await;
        friend.send_text(&phone.jid(), "Hola").unwrap();
        linked.events(id, "message", 1).await;
        // One connection for the pairing and one for the login.
        assert!(proxy.used.load(Ordering::SeqCst) >= 2, "{scheme}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn device_never_bypasses_an_unreachable_proxy() {
    let linked = Linked::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for scheme in ["socks5", "http"] {
        create(&linked, scheme, &format!("{scheme}://{closed}")).await;
        linked.world.post(&format!("/instances/{scheme}/connect"), json!({})).await;
        eventually("the proxy to be unreachable", async || {
            let view = linked.world.get(&format!("/instances/{scheme}")).await.body;
            if view["data"]["reason"]["code"] == "unreachable" { Ok(()) } else { Err(view) }
        })
        .await;
    }
    assert!(linked.web.connection_records().is_empty());
}
