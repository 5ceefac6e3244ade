//! A local WhatsApp Web server with virtual phones, and an instance that a virtual phone can link.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::app::Error;
use crate::config::Settings;
use relevo_clock::{Clock, Random};
use relevo_domain::{InstanceConfig, LinkedDeviceSettings, ProviderConfig, Secret};
use relevo_sandbox_web::{Options, WebHandle, WebServer};

const INSTANCE_ID: &str = "phone";

/// Number of the phone that links the instance.
const OWNER: &str = "573001112233";

/// Number of the phone that writes to the owner.
const FRIEND: &str = "573004445566";

/// Starts a WhatsApp Web server on a free port of the loopback address. Its phones exist until the process ends.
pub(in crate::app) async fn start_web_sandbox() -> Result<WebHandle, Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(address).await.map_err(|cause| Error::Listen { address, cause })?;
    WebServer::start(listener, Clock::system(), Random::system(), Options::default())
        .map_err(|cause| Error::Start(cause.to_string()))
}

/// Starts a WhatsApp Web server and directs linked devices to it.
pub(super) async fn start_and_configure(settings: &mut Settings) -> Result<WebHandle, Error> {
    let web = start_web_sandbox().await?;
    settings.linked.server = web.url();
    // The server accepts every version. A configured one prevents the request to WhatsApp for the current version.
    settings.linked.version = Some((2, 3000, 1));
    Ok(web)
}

/// The configuration of the instance that a virtual phone can link.
pub(super) fn demo() -> Result<InstanceConfig, Error> {
    let provider = ProviderConfig::LinkedDevice(LinkedDeviceSettings::default());
    super::instance(INSTANCE_ID, "A device of a virtual phone", provider)
}

/// The commands that link the instance and send it a message.
pub(super) fn welcome(node: SocketAddr, web: &WebHandle, key: &Secret) -> String {
    let key = key.expose();
    let url = web.url();
    let web = format!("http://{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or_default());
    format!(
        "\
Linked devices connect to a local WhatsApp Web server at {web} (GET / describes it).
Scan the code of the instance `{INSTANCE_ID}` with a virtual phone:

  CODE=$(curl -s http://{node}/instances/{INSTANCE_ID}/qr -H 'X-API-Key: {key}' -H 'Accept: text/plain')
  curl -s {web}/_web/phones/{OWNER}/scan -d \"{{\\\"code\\\":\\\"$CODE\\\"}}\"

Send it a message from another virtual phone, and read the events:

  curl -s {web}/_web/phones/{FRIEND}/say -d '{{\"to\":\"{OWNER}\",\"text\":\"Hola\"}}'
  curl -s 'http://{node}/instances/{INSTANCE_ID}/events?after=' -H 'X-API-Key: {key}'
"
    )
}
