//! A fixture that runs instances with scripted clients.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use ractor::{Actor, ActorRef};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::instance::{Arguments, Handle, InstanceSupervisor, Msg, Options, SendRequest, StateView};
use crate::media::{self, MediaCache};
use crate::queue::MessageView;
use crate::queue::tests::fixture::TestQueue;
use crate::retry::{self, RetrySupervisor};
use crate::supervisor::ActorSlot;
use crate::{events, inbound, instance};
use relevo_clock::{Clock, Random};
use relevo_domain::{
    Class, Content, Failure, InboundMessage, InstanceConfig, InstanceId, InstanceNumber, InstanceState,
    LinkedDeviceSettings, MessageId, MessageOptions, MessageRef, OutboundMessage, PhoneNumber,
    ProviderConfig, ProviderKind, ProviderMessageId, RateLimit, RetryPolicy, Status,
};
use relevo_egress::{self as egress, Egress};
use relevo_metrics::Metrics;
use relevo_provider::{
    CheckError, ConnectionEvent, DirectClient, LinkEvent, LinkedAccount, LinkedOptions, LinkedProvider,
    LoginGate, MarkReadRequest, MediaStream, PairCode, Provider, ProviderResources, RemoteMedia,
};
use relevo_store::{Blobs, DataFolder, Tx};

pub const SECOND: Duration = Duration::from_secs(1);

/// Real time after which a test that waits for a condition fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The fake network behind every scripted client: its behaviour and what it received.
#[derive(Default)]
pub struct FakeNetwork {
    /// The latest connection of each instance.
    connections: Mutex<HashMap<InstanceNumber, mpsc::Sender<ConnectionEvent>>>,
    /// Number of connections so far.
    connection_count: watch::Sender<usize>,
    /// Instances whose clients answer no probe.
    pub unanswered_probes: Mutex<HashSet<InstanceNumber>>,
    /// Instances whose sends never complete.
    pub hanging_sends: Mutex<HashSet<InstanceNumber>>,
    /// Instances whose clients panic on every call.
    pub panicking: Mutex<HashSet<InstanceNumber>>,
    /// Messages sent so far, in order.
    pub sent: Mutex<Vec<(InstanceNumber, MessageId)>>,
    /// Instances unlinked so far.
    pub unlinked: Mutex<Vec<InstanceNumber>>,
    /// Read receipts so far.
    pub read: Mutex<Vec<MarkReadRequest>>,
}

struct ScriptedProvider {
    number: InstanceNumber,
    net: Arc<FakeNetwork>,
}

impl ScriptedProvider {
    fn panic_if_broken(&self) {
        assert!(!self.net.panicking.lock().unwrap().contains(&self.number), "this client is broken");
    }
}

impl FakeNetwork {
    /// Closes every connection without an event.
    pub fn close_connections(&self) {
        self.connections.lock().unwrap().clear();
    }
}

impl Provider for ScriptedProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::LinkedDevice
    }

    fn linked(&self) -> Option<&dyn LinkedProvider> {
        Some(self)
    }

    fn check(&self, _: &OutboundMessage) -> Result<(), CheckError> {
        Ok(())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.panic_if_broken();
        let unanswered = self.net.unanswered_probes.lock().unwrap().contains(&self.number);
        if unanswered { future::pending().boxed() } else { future::ready(Ok(())).boxed() }
    }

    fn send<'a>(
        &'a self,
        id: MessageId,
        _: &'a OutboundMessage,
    ) -> BoxFuture<'a, Result<ProviderMessageId, Failure>> {
        self.panic_if_broken();
        self.net.sent.lock().unwrap().push((self.number, id));
        let hanging = self.net.hanging_sends.lock().unwrap().contains(&self.number);
        if hanging { future::pending().boxed() } else { future::ready(Ok("3EB0".parse().unwrap())).boxed() }
    }

    fn mark_read<'a>(&'a self, read: &'a MarkReadRequest, _: bool) -> BoxFuture<'a, Result<(), Failure>> {
        self.net.read.lock().unwrap().push(read.clone());
        future::ready(Ok(())).boxed()
    }

    fn media<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>> {
        future::ready(Err(Failure::permanent("no files in tests"))).boxed()
    }

    fn open_media<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(RemoteMedia, MediaStream), Failure>> {
        future::ready(Err(Failure::permanent("no files in tests"))).boxed()
    }
}

impl LinkedProvider for ScriptedProvider {
    fn connect(&self, inbox: mpsc::Sender<ConnectionEvent>) {
        self.net.connections.lock().unwrap().insert(self.number, inbox);
        self.net.connection_count.send_modify(|count| *count += 1);
    }

    fn pair_by_code<'a>(&'a self, _: &'a PhoneNumber) -> BoxFuture<'a, Result<PairCode, Failure>> {
        let code = PairCode { code: "ABCD1234".to_owned(), valid_for: 180 * SECOND };
        future::ready(Ok(code)).boxed()
    }

    fn unlink(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.net.unlinked.lock().unwrap().push(self.number);
        future::ready(Ok(())).boxed()
    }
}

/// A queue, a retry supervisor and an instance supervisor on one store.
pub struct InstanceFixture {
    pub bench: TestQueue,
    pub net: Arc<FakeNetwork>,
    pub instances: Handle,
    supervisor: ActorRef<Msg>,
    dir: tempfile::TempDir,
}

impl InstanceFixture {
    /// Starts without instances. Default rates are not limiting.
    pub async fn open() -> Self {
        let bench = TestQueue::open();
        let retry = retry::Arguments {
            options: retry::Options::default(),
            random: Random::seeded(1),
            queue: bench.arguments(1),
            queue_slot: bench.slot.clone(),
            queue_handle: bench.handle.clone(),
        };
        let (supervisor, _) = Actor::spawn(None, RetrySupervisor, retry).await.unwrap();
        let slot = ActorSlot::default();
        slot.fill(supervisor);
        let (net, dir) = (Arc::new(FakeNetwork::default()), tempfile::tempdir().unwrap());
        let (instances, supervisor) =
            start_supervisor(&bench, &net, retry::Handle::new(slot), dir.path()).await;
        Self { bench, net, instances, supervisor, dir }
    }

    /// Stops the instances and starts them again from their records.
    pub async fn restart(self) -> Self {
        self.supervisor.stop_and_wait(None, None).await.unwrap();
        let Self { bench, dir, .. } = self;
        let (net, slot) = (Arc::new(FakeNetwork::default()), ActorSlot::default());
        let (instances, supervisor) =
            start_supervisor(&bench, &net, retry::Handle::new(slot), dir.path()).await;
        Self { bench, net, instances, supervisor, dir }
    }

    /// Creates an instance that is not connected.
    pub async fn create(&self, name: &str) -> (InstanceId, InstanceNumber) {
        self.create_at(name, RateLimit { per_second: 1000.0, burst: 1000.try_into().unwrap() }).await
    }

    /// Creates an instance with this rate limit.
    pub async fn create_at(&self, name: &str, rate: RateLimit) -> (InstanceId, InstanceNumber) {
        let id: InstanceId = name.parse().unwrap();
        let (config, now) = (config(id.clone(), rate), self.bench.clock.now());
        let create = move |tx: &mut Tx| instance::create(tx, config, now);
        let number = self.bench.store.write(create).await.unwrap().unwrap();
        self.instances.reload(number).await.unwrap();
        (id, number)
    }

    /// Deletes an instance.
    pub async fn delete(&self, number: InstanceNumber) {
        self.bench.store.write(move |tx| instance::mark_deleted(tx, number)).await.unwrap();
        self.instances.reload(number).await.unwrap();
    }

    /// Creates an instance and connects it.
    pub async fn create_connected(&self, name: &str) -> (InstanceId, InstanceNumber) {
        let (id, number) = self.create(name).await;
        self.connect(&id, number).await;
        (id, number)
    }

    /// Connects an instance.
    pub async fn connect(&self, id: &InstanceId, number: InstanceNumber) {
        let count = self.connections();
        self.instances.connect(id.clone()).await.unwrap();
        self.wait_for_connections(count + 1).await;
        self.deliver_link_event(number, LinkEvent::Connected(account())).await;
        self.wait_for_state(id, InstanceState::Connected).await;
    }

    /// Delivers an event on the connection of an instance.
    pub async fn deliver(&self, number: InstanceNumber, event: ConnectionEvent) {
        let connection = self.net.connections.lock().unwrap().get(&number).cloned();
        connection.unwrap().send(event).await.unwrap();
    }

    pub async fn deliver_link_event(&self, number: InstanceNumber, event: LinkEvent) {
        self.deliver(number, ConnectionEvent::Link(event)).await;
    }

    /// Delivers messages, and returns whether they were stored.
    pub async fn deliver_messages(&self, number: InstanceNumber, messages: Vec<InboundMessage>) -> bool {
        let (durable, answer) = oneshot::channel();
        self.deliver(number, ConnectionEvent::Messages { messages, durable }).await;
        answer.await.unwrap()
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        *self.net.connection_count.borrow()
    }

    /// Waits until `count` connections have begun in total.
    pub async fn wait_for_connections(&self, count: usize) {
        self.net.connection_count.subscribe().wait_for(|begun| *begun >= count).await.unwrap();
    }

    /// Waits until the connection of an instance is closed.
    pub async fn wait_for_disconnect(&self, number: InstanceNumber) {
        let connection = self.net.connections.lock().unwrap().get(&number).cloned().unwrap();
        connection.closed().await;
    }

    pub fn state(&self, id: &InstanceId) -> StateView {
        self.instances.get(id).unwrap().state
    }

    pub async fn wait_for_state(&self, id: &InstanceId, state: InstanceState) -> StateView {
        self.wait_for_view(id, |view| view.state == state).await
    }

    pub async fn wait_for_view(&self, id: &InstanceId, wanted: impl Fn(&StateView) -> bool) -> StateView {
        let mut state = self.instances.find(id).unwrap().state.clone();
        state.wait_for(wanted).await.unwrap().clone()
    }

    /// Waits for an event of this kind and returns all events of the instance so far.
    pub async fn events(&self, number: InstanceNumber, kind: &str) -> Vec<(String, Value)> {
        self.wait_for_events(number, |found, _| found == kind).await
    }

    /// Waits for a matching event and returns all events of the instance so far.
    pub async fn wait_for_events(
        &self,
        number: InstanceNumber,
        wanted: impl Fn(&str, &Value) -> bool,
    ) -> Vec<(String, Value)> {
        let mut tail = events::watch(&self.bench.store, Some(number));
        loop {
            tail.borrow_and_update();
            let all = events::read(&self.bench.store, number, 0, 1000).unwrap().into_iter();
            let all: Vec<_> =
                all.map(|envelope| (envelope.event.kind.to_string(), envelope.event.data)).collect();
            if all.iter().any(|(kind, data)| wanted(kind, data)) {
                return all;
            }
            tail.changed().await.unwrap();
        }
    }

    pub async fn send(&self, id: &InstanceId) -> MessageId {
        self.send_to(id, "573001234567", Class::Transactional).await
    }

    pub async fn send_to(&self, id: &InstanceId, phone: &str, class: Class) -> MessageId {
        let message = OutboundMessage {
            to: phone.parse().unwrap(),
            content: Content::Text { body: "hola".to_owned(), preview_url: false },
            quote: None,
            options: MessageOptions::default(),
        };
        let send = SendRequest { message, class, idempotency: None, expires_at: None, send_at: None };
        self.instances.enqueue(id, send).await.unwrap().id()
    }

    /// Waits until a message has this status.
    pub async fn wait_for_status(&self, id: &InstanceId, message: MessageId, status: Status) {
        self.wait_for_message(id, message, |view| view.status == status).await;
    }

    /// Waits until a message matches. Time does not advance.
    pub async fn wait_for_message(
        &self,
        id: &InstanceId,
        message: MessageId,
        wanted: impl Fn(&MessageView) -> bool,
    ) -> MessageView {
        let view = || self.instances.message(id, &MessageRef::Ours(message)).unwrap();
        eventually("a message to match", || wanted(&view())).await;
        view()
    }

    /// Advances time in small steps, so that tasks with timers run in between.
    pub async fn advance(&self, time: Duration) {
        let step = Duration::from_millis(500);
        let mut left = time;
        while !left.is_zero() {
            self.bench.advance_time(step.min(left)).await;
            left = left.saturating_sub(step);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Waits for a condition that other threads fulfil. Time does not advance.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline = clock.now() + TEST_TIMEOUT;
    while !condition() {
        assert!(clock.now() < deadline, "timed out waiting for {what}");
        tokio::task::yield_now().await;
    }
}

pub fn account() -> LinkedAccount {
    LinkedAccount {
        jid: "573009999999:12@s.whatsapp.net".to_owned(),
        lid: Some("1234@lid".to_owned()),
        name: Some("Shop".to_owned()),
    }
}

fn config(id: InstanceId, rate: RateLimit) -> InstanceConfig {
    InstanceConfig {
        id,
        name: None,
        provider: ProviderConfig::LinkedDevice(LinkedDeviceSettings::default()),
        rate_limit: Some(rate),
        workers: None,
        on_ambiguous: None,
    }
}

async fn start_supervisor(
    bench: &TestQueue,
    net: &Arc<FakeNetwork>,
    retry: retry::Handle,
    dir: &std::path::Path,
) -> (Handle, ActorRef<Msg>) {
    let folder = DataFolder::open(&dir.join("files")).unwrap();
    let (store, clock) = (bench.store.clone(), bench.clock);
    let shared = ProviderResources {
        egress: Egress::new(&egress::Options::default()).unwrap(),
        blobs: Blobs::open(&folder).unwrap(),
        store: store.clone(),
        clock,
        random: Random::seeded(2),
        linked: LinkedOptions::default(),
        login_gate: LoginGate::default(),
        direct_client: DirectClient::default(),
    };
    let library = MediaCache::open(&folder, store.clone(), clock, media::Options::default()).unwrap();
    let (queue, metrics, slot) = (bench.handle.clone(), Metrics::default(), ActorSlot::default());
    let inbound = inbound::Handle::for_tests(queue.clone(), store, clock);
    let policy: RetryPolicy = retry::Options::default().transactional;
    let mut options = Options::default();
    options.linked.jitter = 0.0;
    let (mut arguments, handle) =
        Arguments::new(options, shared, library, queue, retry, inbound, &policy, metrics, slot.clone());
    let net = net.clone();
    arguments.open_provider =
        Arc::new(move |number, _| Ok(Arc::new(ScriptedProvider { number, net: net.clone() })));
    let (supervisor, _) = Actor::spawn(None, InstanceSupervisor, arguments).await.unwrap();
    slot.fill(supervisor.clone());
    (handle, supervisor)
}
