//! The relay against a real WebSocket server with a selectable behaviour.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ractor::{Actor, ActorRef};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, coding::Control, coding::OpCode};

use crate::address_book::AddressBook;
use crate::supervisor::ActorSlot;
use relevo_clock::Clock;
use relevo_domain::Timestamp;
use relevo_metrics::Metrics;
use relevo_store::{self as store, DataFolder, Store};

use super::{Arguments, Error, FrameQueue, Handle, Msg, Options, RelaySupervisor};

/// Longest wait for anything that should happen; reaching it fails the test.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

const NOW: Timestamp = Timestamp(1_705_491_000_250);

/// Behaviour of a server on each connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum PeerBehavior {
    /// Reads frames and answers pings.
    ReadsAndPongs,
    /// Answers the first ping, then closes with `Normal` and reads no frame.
    ClosesAfterPing,
    /// Reads frames and answers closes, but no pings.
    NoPongs,
    /// Closes with `Away` before it reads anything.
    ClosesWithAway,
    /// Closes with `Normal` before it reads anything.
    ClosesWithNormal,
}

/// A WebSocket server on a free port.
struct FakePeer {
    address: std::net::SocketAddr,
    frames: mpsc::UnboundedReceiver<String>,
    connections: Arc<Mutex<usize>>,
    serving: JoinHandle<()>,
}

impl FakePeer {
    async fn start(behaviour: PeerBehavior) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), behaviour).await
    }

    async fn at(address: std::net::SocketAddr, behaviour: PeerBehavior) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, frames) = mpsc::unbounded_channel();
        let connections = Arc::new(Mutex::new(0));
        let counted = connections.clone();
        let serving = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *counted.lock().await += 1;
                open.spawn(serve(stream, behaviour, sender.clone()));
            }
        });
        Self { address, frames, connections, serving }
    }

    async fn frame(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    async fn text(&mut self) -> String {
        tokio::time::timeout(TEST_TIMEOUT, self.frames.recv()).await.expect("no frame arrived").unwrap()
    }

    async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

async fn serve(stream: TcpStream, behaviour: PeerBehavior, frames: mpsc::UnboundedSender<String>) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    if matches!(behaviour, PeerBehavior::ClosesWithAway | PeerBehavior::ClosesWithNormal) {
        let code =
            if behaviour == PeerBehavior::ClosesWithAway { CloseCode::Away } else { CloseCode::Normal };
        let frame = CloseFrame { code, reason: "".into() };
        let _ = socket.close(Some(frame)).await;
        while let Some(Ok(_)) = socket.next().await {}
        return;
    }
    if behaviour == PeerBehavior::NoPongs {
        return serve_without_pongs(socket, &frames).await;
    }
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            let _ = frames.send(text.to_string());
        } else if behaviour == PeerBehavior::ClosesAfterPing {
            // The library sends the pong, too.
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            let _ = socket.close(Some(frame)).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    }
}

/// Reads frames from the bare stream, because the library answers pings automatically.
async fn serve_without_pongs(socket: WebSocketStream<TcpStream>, frames: &mpsc::UnboundedSender<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = socket.into_inner();
    loop {
        let mut head = [0; 2];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = match head[1] & 0x7f {
            126 => usize::from(stream.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await.unwrap();
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
        match head[0] & 0x0f {
            1 => drop(frames.send(String::from_utf8(payload).unwrap())),
            8 => {
                let answer = Frame::from_payload(
                    tokio_tungstenite::tungstenite::protocol::frame::FrameHeader {
                        opcode: OpCode::Control(Control::Close),
                        ..Default::default()
                    },
                    payload.into(),
                );
                let mut bytes = Vec::new();
                answer.format(&mut bytes).unwrap();
                stream.write_all(&bytes).await.unwrap();
                return;
            }
            _ => {}
        }
    }
}

/// The store and the options of a relay.
struct RelayFixture {
    store: Store,
    clock: Clock,
    options: Options,
    _folder: (DataFolder, TempDir),
}

/// A running relay.
struct RunningRelay {
    handle: Handle,
    supervisor: ActorRef<Msg>,
}

impl RelayFixture {
    fn connecting_to(address: std::net::SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _) = Store::open(&folder, &store::Options::default(), Metrics::default()).unwrap();
        let options = Options {
            url: Some(format!("ws://{address}/any/path").parse().unwrap()),
            timeout: Duration::from_secs(5),
            retry_delay: Duration::from_millis(50),
            ..Options::default()
        };
        Self { store, clock: Clock::from_tokio(NOW), options, _folder: (folder, dir) }
    }

    async fn start(&self) -> RunningRelay {
        let slot = ActorSlot::default();
        let made =
            Arguments::new(&self.options, self.store.clone(), self.clock, Metrics::default(), slot.clone());
        let (arguments, handle) = made.unwrap();
        let (supervisor, _) = Actor::spawn(None, RelaySupervisor, arguments.unwrap()).await.unwrap();
        slot.fill(supervisor.clone());
        RunningRelay { handle, supervisor }
    }
}

impl RunningRelay {
    async fn push(&self, fixture: &RelayFixture, webhook: Value) -> Result<(), store::Error> {
        let sender = webhook["entry"][0]["changes"][0]["value"]["messages"][0]["from"].as_str();
        self.push_text(fixture, &webhook.to_string(), sender).await
    }

    async fn push_text(
        &self,
        fixture: &RelayFixture,
        webhook: &str,
        sender: Option<&str>,
    ) -> Result<(), store::Error> {
        let (frame_queue, sender) = (self.handle.frame_queue(), sender.map(str::to_owned));
        let webhook = RawValue::from_string(webhook.to_owned()).unwrap();
        fixture.store.write(move |tx| frame_queue.push(tx, &webhook, sender.as_deref(), NOW)).await
    }

    async fn wait_for_length(&self, wanted: u64) {
        let poll = async {
            while self.handle.waiting().unwrap() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, poll).await.expect("the queue never had that length");
    }

    async fn stop(self) {
        self.handle.drain(TEST_TIMEOUT).await;
        self.supervisor.stop_and_wait(None, None).await.unwrap();
    }
}

fn webhook(from: &str, text: &str) -> Value {
    let message = json!({ "from": from, "id": "wamid.1", "type": "text", "text": { "body": text } });
    let value = json!({ "messaging_product": "whatsapp", "messages": [message] });
    json!({ "object": "whatsapp_business_account", "entry": [{ "id": "W", "changes": [{ "field": "messages", "value": value }] }] })
}

fn body(frame: &Value) -> &str {
    frame["entry"][0]["changes"][0]["value"]["messages"][0]["text"]["body"].as_str().unwrap()
}

#[tokio::test]
async fn frame_is_the_webhook_with_the_senders_address_book_entry() {
    let mut server = FakePeer::start(PeerBehavior::ReadsAndPongs).await;
    let fixture = RelayFixture::connecting_to(server.address);
    let address_book = AddressBook::new(fixture.store.clone(), fixture.clock);
    let data = json!({ "id": 7, "rol": { "is_creator": true } });
    address_book
        .save("1".into(), Some("Juan Pérez".into()), data.as_object().unwrap().clone())
        .await
        .unwrap();
    address_book.save("2".into(), None, serde_json::Map::new()).await.unwrap();
    let relay = fixture.start().await;
    let known = webhook("1", "¡hola! ☎");
    let untouched = "{ \"z\":1.50,\n\"a\":\"\\u00a1\"}".to_owned();
    relay.push_text(&fixture, &untouched, None).await.unwrap();
    relay.push(&fixture, known.clone()).await.unwrap();
    relay.push(&fixture, webhook("2", "b")).await.unwrap();
    relay.push(&fixture, webhook("3", "c")).await.unwrap();
    relay.push(&fixture, json!({ "object": "x", "entry": [{ "changes": [{ "field": "messages", "value": { "statuses": [] } }] }] })).await.unwrap();

    let end = r#","save_number":false,"queued_at":1705491000.250,"attempts":0}"#;
    assert_eq!(server.text().await, untouched.trim_end_matches('}').to_owned() + end);
    let text = server.text().await;
    assert!(text.contains("¡hola! ☎") && text.contains("Juan Pérez"), "{text}");
    let end = r#","save_number":true,"queued_at":1705491000.250,"attempts":0}"#;
    assert!(text.ends_with(end), "{text}");
    assert!(text.find("\"cached_info\"").unwrap() > text.find("\"object\"").unwrap(), "{text}");
    let mut frame: Value = serde_json::from_str(&text).unwrap();
    let info = frame["cached_info"].take();
    assert_eq!((&info["phone"], &info["name"], &info["data"]), (&json!("1"), &json!("Juan Pérez"), &data));
    assert!(info["created_at"].as_str().unwrap().starts_with("2024-01-17T11:30:00."), "{info}");
    assert_eq!((&frame["entry"], &frame["object"]), (&known["entry"], &known["object"]));

    let bare = server.frame().await;
    assert_eq!((&bare["save_number"], &bare["cached_info"]["data"]), (&json!(true), &json!({})));
    for _ in 0..2 {
        let stranger = server.frame().await;
        assert_eq!((&stranger["save_number"], stranger.get("cached_info")), (&json!(false), None));
        assert_eq!(stranger.get("type"), None);
    }
    relay.wait_for_length(0).await;
    assert_eq!(*server.connections.lock().await, 1, "one connection serves many frames");
    relay.stop().await;
}

#[tokio::test]
async fn unavailable_peer_blocks_the_queue_and_gets_all_frames_in_order() {
    let server = FakePeer::start(PeerBehavior::ReadsAndPongs).await;
    let address = server.address;
    server.stop().await;
    let fixture = RelayFixture::connecting_to(address);
    let relay = fixture.start().await;
    for n in 0..20 {
        relay.push(&fixture, webhook("1", &n.to_string())).await.unwrap();
    }
    assert!(!relay.handle.health().await.unwrap().available);
    // The queue survives a restart, with frames queued before and after it.
    relay.stop().await;
    let relay = fixture.start().await;
    for n in 20..40 {
        relay.push(&fixture, webhook("1", &n.to_string())).await.unwrap();
    }
    assert_eq!(relay.handle.waiting().unwrap(), 40);
    assert_eq!(relay.handle.oldest().unwrap(), Some(NOW));
    let mut server = FakePeer::at(address, PeerBehavior::ReadsAndPongs).await;
    for n in 0..40 {
        let frame = server.frame().await;
        assert_eq!(body(&frame), n.to_string());
        assert_eq!(
            frame["attempts"].as_u64().unwrap() > 0,
            n == 0,
            "only the first frame had failed attempts: {frame}"
        );
    }
    relay.wait_for_length(0).await;
    assert_eq!(relay.handle.oldest().unwrap(), None);
    relay.stop().await;
}

#[tokio::test]
async fn attempt_count_survives_a_restart() {
    let stopped = FakePeer::start(PeerBehavior::ReadsAndPongs).await;
    let address = stopped.address;
    stopped.stop().await;
    let mut fixture = RelayFixture::connecting_to(address);
    fixture.options.retry_delay = Duration::from_secs(3600);
    for run in 1..=3 {
        // Each run makes one attempt, then waits for the retry delay of one hour.
        let relay = fixture.start().await;
        if run == 1 {
            relay.push(&fixture, webhook("1", "a")).await.unwrap();
        }
        let poll = async {
            while super::storage::read_meta(|key| fixture.store.get(key)).unwrap().attempts() != run {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, poll).await.expect("the attempt was not counted");
        relay.stop().await;
    }
    let mut server = FakePeer::at(address, PeerBehavior::ReadsAndPongs).await;
    let relay = fixture.start().await;
    assert_eq!(server.frame().await["attempts"], 3);
    relay.stop().await;
}

#[tokio::test]
async fn peer_without_pongs_is_confirmed_by_close() {
    let mut server = FakePeer::start(PeerBehavior::NoPongs).await;
    let mut fixture = RelayFixture::connecting_to(server.address);
    fixture.options.timeout = Duration::from_millis(1500);
    let relay = fixture.start().await;
    for n in 0..5 {
        relay.push(&fixture, webhook("1", &n.to_string())).await.unwrap();
    }
    for n in 0..5 {
        let frame = server.frame().await;
        assert_eq!((body(&frame), &frame["attempts"]), (n.to_string().as_str(), &json!(0)));
    }
    relay.wait_for_length(0).await;
    assert!(server.frames.try_recv().is_err(), "nothing came twice");
    relay.stop().await;
}

#[tokio::test]
async fn peer_initiated_close_does_not_confirm_a_frame() {
    for behaviour in
        [PeerBehavior::ClosesWithAway, PeerBehavior::ClosesWithNormal, PeerBehavior::ClosesAfterPing]
    {
        let server = FakePeer::start(behaviour).await;
        let address = server.address;
        let fixture = RelayFixture::connecting_to(address);
        let relay = fixture.start().await;
        for text in ["a", "b", "c"] {
            relay.push(&fixture, webhook("1", text)).await.unwrap();
        }
        let poll = async {
            while *server.connections.lock().await < 5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, poll).await.expect("the peer got no further connection");
        assert_eq!(relay.handle.waiting().unwrap(), 3, "{behaviour:?}");
        server.stop().await;
        let mut server = FakePeer::at(address, PeerBehavior::ReadsAndPongs).await;
        for text in ["a", "b", "c"] {
            assert_eq!(body(&server.frame().await), text);
        }
        relay.stop().await;
    }
}

#[tokio::test]
async fn connection_lost_between_frames_costs_no_attempt() {
    let mut server = FakePeer::start(PeerBehavior::ReadsAndPongs).await;
    let address = server.address;
    let fixture = RelayFixture::connecting_to(address);
    let relay = fixture.start().await;
    relay.push(&fixture, webhook("1", "a")).await.unwrap();
    assert_eq!(body(&server.frame().await), "a");
    relay.wait_for_length(0).await;
    server.stop().await;
    let mut server = FakePeer::at(address, PeerBehavior::ReadsAndPongs).await;
    relay.push(&fixture, webhook("1", "b")).await.unwrap();
    let frame = server.frame().await;
    assert_eq!((body(&frame), &frame["attempts"]), ("b", &json!(0)));
    relay.stop().await;
}

#[tokio::test]
async fn full_queue_refuses_and_accepts_after_clear() {
    let stopped = FakePeer::start(PeerBehavior::ReadsAndPongs).await;
    let address = stopped.address;
    stopped.stop().await;
    let mut fixture = RelayFixture::connecting_to(address);
    fixture.options.capacity = 120;
    fixture.options.retry_delay = Duration::from_secs(3600);
    let relay = fixture.start().await;
    for n in 0..120 {
        relay.push(&fixture, webhook("1", &n.to_string())).await.unwrap();
    }
    let refused = relay.push(&fixture, webhook("1", "x")).await.unwrap_err();
    assert!(matches!(refused, store::Error::Full { limit: 120, .. }), "{refused}");
    assert!(!relay.handle.health().await.unwrap().healthy);
    assert_eq!(relay.handle.clear().await.unwrap(), 120);
    relay.push(&fixture, webhook("1", "y")).await.unwrap();
    let mut server = FakePeer::at(address, PeerBehavior::ReadsAndPongs).await;
    relay.handle.restart().await.unwrap();
    assert_eq!(body(&server.frame().await), "y");
    relay.wait_for_length(0).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_large_frame_arrives_whole_and_leaves_nothing() {
    let mut server = FakePeer::start(PeerBehavior::ReadsAndPongs).await;
    let fixture = RelayFixture::connecting_to(server.address);
    let relay = fixture.start().await;
    let text = "ñ☎".repeat(300_000);
    relay.push(&fixture, webhook("1", &text)).await.unwrap();
    assert_eq!(body(&server.frame().await), text);
    relay.wait_for_length(0).await;
    let parts = store::Key::new(store::Space::Part);
    assert_eq!(fixture.store.range(&parts, &parts.clone().after_prefix()).count(), 0);
    relay.stop().await;
}

#[tokio::test]
async fn disabled_relay_stores_nothing() {
    let mut fixture = RelayFixture::connecting_to("127.0.0.1:1".parse().unwrap());
    fixture.options.url = None;
    let made = Arguments::new(
        &fixture.options,
        fixture.store.clone(),
        fixture.clock,
        Metrics::default(),
        ActorSlot::default(),
    );
    let (none, handle) = made.unwrap();
    assert!(none.is_none() && !handle.frame_queue().is_enabled() && !FrameQueue::disabled().is_enabled());
    let frame_queue = handle.frame_queue();
    let webhook = RawValue::from_string(webhook("1", "a").to_string()).unwrap();
    fixture.store.write(move |tx| frame_queue.push(tx, &webhook, Some("1"), NOW)).await.unwrap();
    assert_eq!(handle.waiting().unwrap(), 0);
    assert!(matches!(handle.push(json!({})).await, Err(Error::Disabled)));
    assert!(matches!(handle.restart().await, Err(Error::Disabled)));
}
