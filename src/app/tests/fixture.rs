//! All actors of a node on a data folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::accounts::ChangeStep;
use crate::app::handles::{self, Handles};
use crate::app::root_supervisor::RootSupervisor;
use crate::config;
use crate::media::MediaCache;
use relevo_clock::{Clock, Random};
use relevo_domain::{CloudApiSettings, InstanceConfig, InstanceId, ProviderConfig, Secret};
use relevo_egress::Egress;
use relevo_metrics::Metrics;
use relevo_provider::{DirectClient, LoginGate, ProviderResources};
use relevo_store::{Blobs, DataFolder, Store, WriterExit};

/// Called after each step of a change of an account.
pub type AfterStep = Arc<dyn Fn(ChangeStep) + Send + Sync>;

/// Longest wait, in real time, for anything that should happen; reaching it fails the test.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

pub struct TestNode {
    pub handles: Handles,
    pub store: Store,
    root: ActorRef<()>,
    writer_exit: WriterExit,
    folder: DataFolder,
}

impl TestNode {
    pub async fn start(data: &Path) -> Self {
        Self::start_with(data, Arc::new(|_| {})).await
    }

    pub async fn start_with(data: &Path, after_step: AfterStep) -> Self {
        let environment: [(&str, &str); 0] = [];
        let mut settings = config::load(None, environment, false).unwrap();
        settings.data_dir = data.to_owned();
        settings.egress.allow_private = true;
        let (folder, clock, metrics) = (DataFolder::open(data).unwrap(), Clock::system(), Metrics::default());
        let (store, writer_exit) = Store::open(&folder, &settings.store, metrics.clone()).unwrap();
        let media_cache = MediaCache::open(&folder, store.clone(), clock, settings.media.clone()).unwrap();
        let resources = ProviderResources {
            egress: Egress::new(&settings.egress).unwrap(),
            blobs: Blobs::open(&folder).unwrap(),
            store: store.clone(),
            clock,
            random: Random::system(),
            linked: settings.linked.clone(),
            login_gate: LoginGate::default(),
            direct_client: DirectClient::default(),
        };
        let (handles, mut children) = handles::connect(&settings, resources, media_cache, &metrics).unwrap();
        children.accounts.arguments.after_step = after_step;
        let root = Box::pin(Actor::spawn(None, RootSupervisor, (children, CancellationToken::new())));
        let (root, _) = root.await.unwrap();
        Self { handles, store, root, writer_exit, folder }
    }

    pub async fn stop(self) {
        self.root.stop_and_wait(None, None).await.unwrap();
        drop((self.handles, self.store));
        self.writer_exit.wait().await;
        drop(self.folder);
    }
}

/// The store of a data folder, without a node.
pub fn open_store(data: &Path) -> (DataFolder, Store, WriterExit) {
    let folder = DataFolder::open(data).unwrap();
    let (store, writer_exit) = Store::open(&folder, &Default::default(), Metrics::default()).unwrap();
    (folder, store, writer_exit)
}

/// An instance on the Cloud API, whose address does not answer.
pub fn config(id: &InstanceId) -> InstanceConfig {
    let cloud_api = CloudApiSettings {
        phone_number_id: "1001".to_owned(),
        access_token: Secret::new("token"),
        app_secret: Some(Secret::new("secret")),
        verify_token: None,
        base_url: url("graph"),
        api_version: "v25.0".to_owned(),
    };
    InstanceConfig {
        id: id.clone(),
        name: None,
        provider: ProviderConfig::CloudApi(cloud_api),
        rate_limit: None,
        workers: None,
        on_ambiguous: None,
    }
}

/// A URL that does not answer.
pub fn url(path: &str) -> Url {
    format!("http://127.0.0.1:9/{path}").parse().unwrap()
}

/// Waits for a condition that other tasks fulfil.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT_LIMIT, waiting).await.is_ok(), "timed out waiting until {what}");
}
