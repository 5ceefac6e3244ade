//! Helpers of the integration tests: a node and a sandbox on free loopback ports in this process.

pub mod cloud_webhook;
pub mod event_readers;
pub mod node;
pub mod process;
pub mod receiver;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use relevo::config::{self, Settings};
use relevo_clock::{Clock, Random};
use relevo_domain::{Secret, Timestamp};
use relevo_metrics::Metrics;
use relevo_sandbox::{self as sandbox, Sandbox};
use relevo_store::{DataFolder, Store, Tx};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use node::Running;

/// Longest wait of `eventually`.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Interval between two checks of `eventually`.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// API key of the node.
pub const KEY: &str = "test-key-of-the-node";
/// App secret of the instances on the Cloud API.
pub const APP_SECRET: &str = "app-secret";

/// A node, a sandbox, and an HTTP client for both.
///
/// Dropping it stops both and fails the test if something is left: what [`Running`] checks, a sandbox that does not end,
/// or the temporary folder. The test's thread waits, and its peers must run meanwhile: tests with a world have the
/// attribute `#[tokio::test(flavor = "multi_thread", worker_threads = 1)]`.
pub struct World {
    pub node: Running,
    pub sandbox: SandboxRunning,
    pub settings: Settings,
    clock: Clock,
    /// `None` after the end.
    data: Option<TempDir>,
    client: reqwest::Client,
}

/// A running sandbox. Dropping it stops the sandbox and waits for its end.
pub struct SandboxRunning {
    pub address: SocketAddr,
    stop: CancellationToken,
    /// `None` after the end.
    serving: Option<JoinHandle<()>>,
}

/// A complete HTTP answer. `body` is a string when it is not JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl World {
    /// A node with the connected instance `shop`.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, with changed settings.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let world = Self::empty(change).await;
        world.create("shop").await;
        world
    }

    /// A node without instances.
    pub async fn empty(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(tempfile::tempdir().unwrap(), Clock::system(), change).await
    }

    /// A node on the folder `data` in `folder`. Its clock starts at `at`, the time at which the folder's node ended, so that
    /// no record is expired.
    pub async fn of_folder(folder: TempDir, at: Timestamp, change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(folder, Clock::from_tokio(at), change).await
    }

    async fn on(data: TempDir, clock: Clock, change: impl FnOnce(&mut Settings)) -> Self {
        let flavor = Handle::current().runtime_flavor();
        assert_eq!(flavor, RuntimeFlavor::MultiThread, "see the documentation of World");
        let environment: [(&str, &str); 0] = [];
        let mut settings = config::load(None, environment, false).unwrap();
        settings.data_dir = data.path().join("data");
        settings.auth.api_key = Some(Secret::new(KEY));
        settings.http.listen = "127.0.0.1:0".parse().unwrap();
        settings.http.default_instance = Some("shop".parse().unwrap());
        settings.egress.allow_private = true;
        change(&mut settings);
        let sandbox = SandboxRunning::start(sandbox::Options {
            app_secret: Some(Secret::new(APP_SECRET)),
            delivered_after: Duration::from_millis(20),
            read_after: Duration::from_millis(40),
            ..sandbox::Options::default()
        })
        .await;
        let node = Running::start(settings.clone(), clock).await;
        let client = reqwest::Client::new();
        let world = Self { node, sandbox, settings, clock, data: Some(data), client };
        world.set_sandbox_webhook().await;
        world
    }

    /// Moves the timers of the node forward. The server's timeouts close idle connections then, so the client starts
    /// with new ones: a request on a connection that is being closed fails.
    pub async fn advance(&mut self, by: Duration) {
        self.node.advance(by).await;
        self.client = reqwest::Client::new();
    }

    /// Creates an instance on the sandbox, and waits until it is connected and its `status` event is logged.
    pub async fn create(&self, id: &str) -> Answer {
        let created = self.post("/instances", self.instance(id)).await;
        assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
        self.until_state(id, "connected").await;
        // The event follows the state. Later readers of the test must not receive it.
        let path = format!("/instances/{id}/events?types=status");
        eventually("the status event of the connection", async || {
            let page = self.get(&path).await.body;
            let connected = |event: &Value| event["data"]["status"] == "connected";
            if page["data"].as_array().unwrap().iter().any(connected) { Ok(()) } else { Err(page) }
        })
        .await;
        created
    }

    /// The body that creates an instance on the sandbox.
    pub fn instance(&self, id: &str) -> Value {
        json!({
            "instance_id": id,
            "provider": "cloud_api",
            "cloud_api": {
                "phone_number_id": format!("1065{}", id.bytes().map(u32::from).sum::<u32>()),
                "access_token": "token",
                "app_secret": APP_SECRET,
                "verify_token": "hola",
                "base_url": format!("http://{}", self.sandbox.address),
            }
        })
    }

    /// Sets the sandbox's webhook to the node's address.
    async fn set_sandbox_webhook(&self) {
        let url = format!("http://{}/webhook", self.node.address);
        let set = self.control(
            Method::POST,
            "/_sandbox/webhook",
            Some(json!({ "url": url, "app_secret": APP_SECRET })),
        );
        assert!(set.await.status.is_success());
    }

    /// Shuts the node down and starts it again on the same data.
    pub async fn restart_node(&mut self) {
        self.stop_node().await;
        self.start_node().await;
    }

    /// Shuts the node down and waits for its end.
    pub async fn stop_node(&mut self) {
        self.node.stop().await;
    }

    /// Starts the node on the same data.
    pub async fn start_node(&mut self) {
        self.node = Running::start(self.settings.clone(), self.clock).await;
        self.set_sandbox_webhook().await;
    }

    /// Stops the node, changes its store, and starts it again.
    pub async fn change_store(
        &mut self,
        change: impl FnOnce(&mut Tx) -> Result<(), relevo_store::Error> + Send + 'static,
    ) {
        self.stop_node().await;
        let folder = DataFolder::open(&self.settings.data_dir).unwrap();
        let (store, closing) = Store::open(&folder, &self.settings.store, Metrics::default()).unwrap();
        store.write(change).await.unwrap();
        drop(store);
        closing.wait().await;
        drop(folder);
        self.start_node().await;
    }

    /// A request to the node with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.node.address)).header("X-API-Key", KEY)
    }

    /// A GET request to the node.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// A POST request to the node with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body)).await
    }

    /// A POST request to the node with `X-Async: true`.
    pub async fn queue(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).header("X-Async", "true").json(&body)).await
    }

    /// A request to the control plane of the sandbox.
    pub async fn control(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.client.request(method, format!("http://{}{path}", self.sandbox.address));
        Answer::of(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// Arms faults at the sandbox.
    pub async fn faults(&self, faults: Value) {
        let armed = self.control(Method::POST, "/_sandbox/faults", Some(faults)).await;
        assert!(armed.status.is_success(), "{armed:?}");
    }

    /// All messages in the sandbox's journal, in order of arrival.
    pub async fn arrived(&self) -> Vec<Value> {
        let all = self.control(Method::GET, "/_sandbox/messages?limit=100000", None).await;
        all.body["messages"].as_array().unwrap().clone()
    }

    /// Waits until the message of `shop` has one of these statuses. Returns its view.
    pub async fn until_status(&self, id: &str, wanted: &[&str]) -> Value {
        let path = format!("/instances/shop/messages/{id}");
        let what = format!("{id} to be {wanted:?}");
        eventually(&what, async || {
            let answer = self.get(&path).await;
            let status = answer.body["data"]["status"].as_str().unwrap_or_default().to_owned();
            if wanted.contains(&status.as_str()) { Ok(answer.body["data"].clone()) } else { Err(answer.body) }
        })
        .await
    }

    /// Waits until the instance has the state. Returns its view.
    pub async fn until_state(&self, instance: &str, wanted: &str) -> Value {
        let path = format!("/instances/{instance}");
        eventually(&format!("{instance} to be {wanted}"), async || {
            let answer = self.get(&path).await;
            if answer.body["data"]["status"] == wanted {
                Ok(answer.body["data"].clone())
            } else {
                Err(answer.body)
            }
        })
        .await
    }
}

impl Answer {
    /// Sends the request and reads the answer.
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self { status, headers, body }
    }

    /// The `message_id` of the body.
    pub fn id(&self) -> String {
        self.body["message_id"].as_str().unwrap_or_else(|| panic!("no message_id in {self:?}")).to_owned()
    }
}

impl SandboxRunning {
    /// Starts a sandbox in a background task.
    pub async fn start(options: sandbox::Options) -> Self {
        let sandbox = Sandbox::bind(options, Clock::system(), Random::system()).await.unwrap();
        let (address, stop) = (sandbox.local_addr(), CancellationToken::new());
        let serving = Some(tokio::spawn(sandbox.serve(stop.clone())));
        Self { address, stop, serving }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.node.stop_blocking();
        if let Some(data) = self.data.take().filter(|_| !thread::panicking()) {
            let path = data.path().to_owned();
            data.close().expect("the temporary folder can be deleted");
            assert!(!path.exists(), "the temporary folder remains: {}", path.display());
        }
    }
}

impl Drop for SandboxRunning {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take().filter(|_| !thread::panicking()) {
            let ended = async { tokio::time::timeout(TIMEOUT, serving).await };
            let ended = tokio::task::block_in_place(|| Handle::current().block_on(ended));
            ended.expect("the sandbox ends").expect("the sandbox does not panic");
        }
    }
}

/// Repeats `check` until it returns `Ok`. Fails the test after `TIMEOUT` with the last error.
pub async fn eventually<T, E: std::fmt::Debug>(
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let mut polls = tokio::time::interval(POLL_INTERVAL);
    loop {
        polls.tick().await;
        match check().await {
            Ok(found) => return found,
            Err(last) if tokio::time::Instant::now() > deadline => {
                panic!("waited for {what}; last seen: {last:?}")
            }
            Err(_) => {}
        }
    }
}
