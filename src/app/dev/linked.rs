//! A WhatsApp Web beside the sandbox, and an instance for a virtual phone to link.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::app::Error;
use crate::config::Settings;
use relevo_clock::Clock;
use relevo_domain::{InstanceConfig, ProviderKind, Secret};
use relevo_sandbox_web::{Options, WebHandle, WebServer};

const INSTANCE_ID: &str = "phone";

/// The numbers of the phone that links the instance, and of somebody who writes to it.
const OWNER: &str = "573001112233";
const FRIEND: &str = "573004445566";

/// A WhatsApp Web at a port of its own. Its phones live as long as the process.
pub(in crate::app) async fn start_web_sandbox() -> Result<WebHandle, Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(address).await.map_err(|cause| Error::Listen { address, cause })?;
    WebServer::start(listener, Clock::system(), Options::default())
        .map_err(|cause| Error::Start(cause.to_string()))
}

/// Starts one, and lets linked devices connect there.
pub(super) async fn start_and_configure(settings: &mut Settings) -> Result<WebHandle, Error> {
    let web = start_web_sandbox().await?;
    settings.linked.server = web.url();
    // Any will do here; the real one is asked of WhatsApp, who is not asked for this.
    settings.linked.version = Some((2, 3000, 1));
    Ok(web)
}

pub(super) fn demo() -> Result<InstanceConfig, Error> {
    super::instance(INSTANCE_ID, "A device of a virtual phone", ProviderKind::LinkedDevice)
}

pub(super) fn welcome(node: SocketAddr, web: &WebHandle, key: &Secret) -> String {
    let key = key.expose();
    let url = web.url();
    let web = format!("http://{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or_default());
    format!(
        "\
Linked devices find a WhatsApp Web of their own at {web} (GET / describes it).
Let a virtual phone scan the code of the instance `{INSTANCE_ID}`:

  CODE=$(curl -s http://{node}/instances/{INSTANCE_ID}/qr -H 'X-API-Key: {key}' -H 'Accept: text/plain')
  curl -s {web}/_web/phones/{OWNER}/scan -d \"{{\\\"code\\\":\\\"$CODE\\\"}}\"

and somebody write to it, and read what came:

  curl -s {web}/_web/phones/{FRIEND}/say -d '{{\"to\":\"{OWNER}\",\"text\":\"Hola\"}}'
  curl -s 'http://{node}/instances/{INSTANCE_ID}/events?after=' -H 'X-API-Key: {key}'
"
    )
}
