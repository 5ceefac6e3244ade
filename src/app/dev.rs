//! `relevo dev`: a node, a sandbox and instances on it, in one process, on loopback.

#[cfg(feature = "linked-sandbox")]
pub(super) mod virtual_phones;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio_util::sync::CancellationToken;
use url::Url;

use crate::config;
use crate::config::Settings;
use relevo_clock::{Clock, Random};
use relevo_domain::{CloudApiSettings, InstanceConfig, ProviderConfig, Secret, ValidationError};
use relevo_sandbox::{self as sandbox, Sandbox};
use relevo_store as store;

use super::{Error, Node, announce};

/// The instance on the sandbox.
const INSTANCE_ID: &str = "demo";

/// The sandbox accepts every phone number id.
const PHONE_NUMBER_ID: &str = "106540352242922";

/// Runs until `shutdown` is cancelled or the node fails.
pub(super) async fn run(mut settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    if cfg!(debug_assertions) {
        tracing::info!(
            "this is a debug build, for trying relevo on this machine alone; \
             `cargo build --release` makes the binary to run"
        );
    }
    // A separate folder: a trial does not touch the queue of a real node.
    settings.data_dir = settings.data_dir.join("dev");
    settings.http.listen = loopback(settings.http.listen);
    settings.egress.allow_private = true;
    settings.http.default_instance = Some(INSTANCE_ID.parse().map_err(invalid_instance)?);
    let random = Random::system();
    let key = dev_key(&settings, &random)?;
    settings.auth.api_key = Some(key.clone());

    let app_secret = Secret::new(format!("{:032x}", random.value::<u128>()));
    let (listen, node_address) = (loopback(settings.sandbox_listen), settings.http.listen);
    #[cfg(feature = "linked-sandbox")]
    let web = virtual_phones::start_and_configure(&mut settings).await?;
    let node = Node::start(settings, Clock::system(), random.clone()).await?;
    let node_address = node.local_addr().map_err(|cause| Error::Listen { address: node_address, cause })?;
    let options = sandbox::Options {
        listen,
        app_secret: Some(app_secret.clone()),
        webhook_url: Some(url_of(node_address, "/webhook")?),
        ..sandbox::Options::default()
    };
    let sandbox = Sandbox::bind(options, Clock::system(), random).await?;
    let sandbox_address = sandbox.local_addr();
    let serving = tokio::spawn(sandbox.serve(shutdown.child_token()));
    node.accounts().ensure(demo(sandbox_address, app_secret)?).await?;

    announce(&welcome(node_address, sandbox_address, &key));
    #[cfg(feature = "linked-sandbox")]
    {
        node.accounts().ensure(virtual_phones::demo()?).await?;
        announce(&virtual_phones::welcome(node_address, &web, &key));
    }
    let outcome = node.run(shutdown.clone()).await;
    shutdown.cancel();
    let _ = serving.await;
    outcome
}

/// The configured key, or the one in the `dev` folder, which the first start generates.
fn dev_key(settings: &Settings, random: &Random) -> Result<Secret, Error> {
    let folder = store::DataFolder::open(&settings.data_dir)?;
    let auth = config::Auth { required: true, ..settings.auth.clone() };
    let resolved = config::resolve_api_key(&auth, &folder, random)?;
    resolved.key.ok_or_else(|| Error::Start("there is no API key".to_owned()))
}

/// The address, or the same port of 127.0.0.1 if the address is not a loopback address.
fn loopback(address: SocketAddr) -> SocketAddr {
    if address.ip().is_loopback() {
        address
    } else {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    }
}

fn url_of(address: SocketAddr, path: &str) -> Result<Url, Error> {
    Url::parse(&format!("http://{address}{path}")).map_err(|cause| Error::Start(cause.to_string()))
}

fn invalid_instance(invalid: ValidationError) -> Error {
    Error::Account(invalid.into())
}

fn demo(sandbox: SocketAddr, app_secret: Secret) -> Result<InstanceConfig, Error> {
    let cloud_api = CloudApiSettings {
        phone_number_id: PHONE_NUMBER_ID.to_owned(),
        access_token: Secret::new("sandbox"),
        app_secret: Some(app_secret),
        verify_token: Some(Secret::new("hola")),
        base_url: url_of(sandbox, "")?,
        api_version: "v25.0".to_owned(),
    };
    instance(INSTANCE_ID, "A sandboxed WhatsApp", ProviderConfig::CloudApi(cloud_api))
}

/// An instance that uses the node's defaults.
fn instance(id: &str, name: &str, provider: ProviderConfig) -> Result<InstanceConfig, Error> {
    Ok(InstanceConfig {
        id: id.parse().map_err(invalid_instance)?,
        name: Some(name.to_owned()),
        provider,
        rate_limit: None,
        workers: None,
        on_ambiguous: None,
    })
}

fn welcome(node: SocketAddr, sandbox: SocketAddr, key: &Secret) -> String {
    let key = key.expose();
    format!(
        "\
relevo is running at http://{node} with a sandboxed WhatsApp at http://{sandbox}
API key: {key}

Send a first message:

  curl -s http://{node}/instances/{INSTANCE_ID}/messages/text \\
    -H 'X-API-Key: {key}' -H 'Content-Type: application/json' \\
    -d '{{\"phone\":\"573001234567\",\"message\":\"Hola\"}}'

Read its status until it is `read` (replace MESSAGE_ID with the message_id of the answer):

  curl -s http://{node}/instances/{INSTANCE_ID}/messages/MESSAGE_ID -H 'X-API-Key: {key}'

List the messages that the sandbox received:

  curl -s http://{sandbox}/_sandbox/messages

Ctrl-C stops the node. Accepted messages remain in the data folder and are sent after the next start.
"
    )
}
