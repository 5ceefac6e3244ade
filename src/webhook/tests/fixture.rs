//! A webhook supervisor with its store, and a receiver whose behaviour tests can change.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use ractor::{Actor, ActorRef};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use url::Url;

use crate::events::{self, Event};
use crate::supervisor::ActorSlot;
use crate::webhook::{
    Arguments, EndpointConfig, EndpointId, EndpointScope, EndpointView, Error, Events, Handle, InstanceIds,
    Lag, Msg, Options, WebhookSupervisor,
};
use relevo_clock::{Clock, Random};
use relevo_domain::{EventKind, InstanceNumber, Secret, Timestamp};
use relevo_egress::{self as egress, Egress};
use relevo_metrics::Metrics;
use relevo_store::{DataFolder, Store, WriterExit};

/// Longest wait, in real time, for anything that should happen; reaching it fails the test.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// Time at the start of every test.
pub const START: Timestamp = Timestamp(1_700_000_000_000);

pub const ONE: InstanceNumber = InstanceNumber::FIRST;

pub fn two() -> InstanceNumber {
    ONE.next().unwrap()
}

/// Options with short delays.
pub fn fast_options() -> Options {
    Options {
        timeout: Duration::from_millis(300),
        first_delay: Duration::from_millis(10),
        factor: 2,
        max_delay: Duration::from_millis(40),
        ..Options::default()
    }
}

pub struct WebhookFixture {
    running: Option<RunningNode>,
    pub handle: Handle,
    pub store: Store,
    pub clock: Clock,
    instances: watch::Sender<InstanceIds>,
    options: Options,
    egress: egress::Options,
    data: TempDir,
}

struct RunningNode {
    root: ActorRef<Msg>,
    closing: WriterExit,
    folder: DataFolder,
}

impl WebhookFixture {
    /// A fixture with the instances `shop` and `bar`, and no endpoint.
    pub async fn new(options: Options) -> Self {
        Self::with_options(options, true).await
    }

    pub async fn with_options(options: Options, allow_private: bool) -> Self {
        let data = tempfile::tempdir().unwrap();
        let clock = Clock::from_tokio(START);
        let names = [(ONE, "shop".parse().unwrap()), (two(), "bar".parse().unwrap())];
        let instances = watch::Sender::new(InstanceIds::from(names));
        let egress = egress::Options { allow_private, ..egress::Options::default() };
        let (running, handle, store) = start(&data, &options, &egress, clock, &instances).await;
        Self { running: Some(running), handle, store, clock, instances, options, egress, data }
    }

    /// Stops the supervisor and the store, and starts them again on the same folder.
    pub async fn restart(mut self) -> Self {
        let RunningNode { root, closing, folder } = self.running.take().unwrap();
        root.stop_and_wait(None, None).await.unwrap();
        let Self { handle, store, clock, instances, options, egress, data, .. } = self;
        drop((handle, store));
        closing.wait().await;
        drop(folder);
        let (running, handle, store) = start(&data, &options, &egress, clock, &instances).await;
        Self { running: Some(running), handle, store, clock, instances, options, egress, data }
    }

    /// Kills the actors of all endpoints, as a panic would.
    pub fn crash_endpoints(&self) {
        let root = &self.running.as_ref().unwrap().root;
        root.get_children().iter().for_each(|child| child.kill());
    }

    /// Waits until the stored cursors of an endpoint are at the end of every log.
    pub async fn wait_until_caught_up(&self, id: EndpointId) {
        for _ in 0..WAIT_LIMIT.as_millis() / 2 {
            if self.handle.lag(id).await.unwrap() == Lag::default() {
                return;
            }
            real_pause().await;
        }
        panic!("timed out: {:?}", self.handle.lag(id).await);
    }

    /// Adds an instance.
    pub fn add_instance(&self, number: InstanceNumber, name: &str) {
        let mut names = self.instances.borrow().to_vec();
        names.push((number, name.parse().unwrap()));
        self.instances.send_replace(names.into());
    }

    pub fn remove_instance(&self, gone: InstanceNumber) {
        let names: Vec<_> =
            self.instances.borrow().iter().filter(|(number, _)| *number != gone).cloned().collect();
        self.instances.send_replace(names.into());
    }

    /// Appends the events `numbers` of one kind, in this order.
    pub async fn append(
        &self,
        instance: InstanceNumber,
        kind: EventKind,
        numbers: impl Iterator<Item = u64>,
    ) {
        let at = self.clock.now();
        let batch: Vec<_> = numbers
            .map(|n| Event { kind: kind.clone(), at, data: json!({ "n": n, "of": instance.get() }) })
            .collect();
        let write = move |tx: &mut relevo_store::Tx| {
            batch.iter().try_for_each(|event| events::append(tx, instance, event).map(drop))
        };
        self.store.write(write).await.unwrap();
    }

    pub async fn endpoint(&self, scope: EndpointScope, receiver: &StubReceiver) -> EndpointView {
        self.create(scope, config(&receiver.url)).await.unwrap()
    }

    pub async fn create(&self, scope: EndpointScope, config: EndpointConfig) -> Result<EndpointView, Error> {
        self.handle.create(scope, self.handle.check(config).await?).await
    }

    pub async fn set_primary(&self, config: EndpointConfig) -> Result<EndpointView, Error> {
        self.handle.set_primary(ONE, self.handle.check(config).await?, false).await
    }
}

async fn start(
    data: &TempDir,
    options: &Options,
    egress: &egress::Options,
    clock: Clock,
    instances: &watch::Sender<InstanceIds>,
) -> (RunningNode, Handle, Store) {
    let folder = DataFolder::open(data.path()).unwrap();
    let (store, closing) = Store::open(&folder, &Default::default(), Metrics::default()).unwrap();
    let (slot, egress) = (ActorSlot::default(), Egress::new(egress).unwrap());
    let (arguments, handle) = Arguments::new(
        options.clone(),
        store.clone(),
        clock,
        Random::seeded(1),
        egress,
        Metrics::default(),
        instances.subscribe(),
        slot.clone(),
    );
    let (root, _) = Actor::spawn(None, WebhookSupervisor, arguments).await.unwrap();
    slot.fill(root.clone());
    (RunningNode { root, closing, folder }, handle, store)
}

pub fn config(url: &Url) -> EndpointConfig {
    EndpointConfig {
        url: url.clone(),
        secret: Some(Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
        events: Events::All,
        enabled: true,
    }
}

/// A received request.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    pub headers: HeaderMap,
    pub raw: Bytes,
    pub body: Value,
}

impl ReceivedRequest {
    pub fn n(&self) -> u64 {
        self.body["data"]["n"].as_u64().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What the receiver does with an attempt.
pub enum ReceiverAction {
    Status(u16),
    Respond(Response),
    Hang,
}

type Behaviour = Box<dyn FnMut(&ReceivedRequest) -> ReceiverAction + Send>;

/// An HTTP server on loopback.
pub struct StubReceiver {
    pub url: Url,
    shared: Arc<ReceiverState>,
}

struct ReceiverState {
    behaviour: Mutex<Behaviour>,
    attempts: watch::Sender<Vec<ReceivedRequest>>,
}

impl StubReceiver {
    pub async fn new(behaviour: impl FnMut(&ReceivedRequest) -> ReceiverAction + Send + 'static) -> Self {
        let shared = Arc::new(ReceiverState {
            behaviour: Mutex::new(Box::new(behaviour)),
            attempts: watch::Sender::new(Vec::new()),
        });
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?token=t", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared }
    }

    pub async fn with_status(status: u16) -> Self {
        Self::new(move |_| ReceiverAction::Status(status)).await
    }

    pub fn set_behaviour(&self, behaviour: impl FnMut(&ReceivedRequest) -> ReceiverAction + Send + 'static) {
        *self.shared.behaviour.lock().unwrap() = Box::new(behaviour);
    }

    pub fn attempts(&self) -> Vec<ReceivedRequest> {
        self.shared.attempts.borrow().clone()
    }

    /// The numbers of the events, attempt by attempt.
    pub fn numbers(&self) -> Vec<u64> {
        self.attempts().iter().map(ReceivedRequest::n).collect()
    }

    /// Waits until `enough` is true for the received requests.
    pub async fn wait_until(
        &self,
        what: &str,
        enough: impl Fn(&[ReceivedRequest]) -> bool,
    ) -> Vec<ReceivedRequest> {
        eventually(what, || enough(&self.shared.attempts.borrow()).then(|| self.attempts())).await
    }
}

async fn receive(State(shared): State<Arc<ReceiverState>>, headers: HeaderMap, raw: Bytes) -> Response {
    let body = serde_json::from_slice(&raw).unwrap_or_default();
    let attempt = ReceivedRequest { headers, raw, body };
    let answer = shared.behaviour.lock().unwrap()(&attempt);
    shared.attempts.send_modify(|attempts| attempts.push(attempt));
    match answer {
        ReceiverAction::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        ReceiverAction::Respond(response) => response,
        ReceiverAction::Hang => std::future::pending().await,
    }
}

/// Polls `look` in real time, without advancing a paused clock, until it returns a value.
pub async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let mut looks = WAIT_LIMIT.as_millis() / 2;
    loop {
        if let Some(found) = look() {
            return found;
        }
        looks = looks.checked_sub(1).unwrap_or_else(|| panic!("timed out waiting until {what}"));
        real_pause().await;
    }
}

/// A short pause of real time for sockets and the writer thread. A paused clock does not advance.
pub async fn real_pause() {
    let pause = || std::thread::sleep(Duration::from_millis(2));
    tokio::task::spawn_blocking(pause).await.unwrap();
}

/// While this value exists, paused time advances only when a test advances it, and not when all tasks are idle.
pub struct FrozenClock {
    _release: std::sync::mpsc::Sender<()>,
}

pub fn freeze_clock() -> FrozenClock {
    let (release, released) = std::sync::mpsc::channel();
    // A runtime does not advance its clock while blocking work is under way.
    tokio::task::spawn_blocking(move || released.recv());
    FrozenClock { _release: release }
}

pub fn distinct(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
