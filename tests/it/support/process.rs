//! The real binary in a separate process, for tests that kill it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::Method;
use serde_json::Value;

use crate::support::{KEY, eventually};

/// A running node process. Dropping it kills the process.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts `relevo serve` with the settings of these tests.
    pub fn start(address: SocketAddr, data: &Path) -> Self {
        Self::start_with(address, data, &[])
    }

    /// The same, with additional environment variables.
    pub fn start_with(address: SocketAddr, data: &Path, environment: &[(&str, &str)]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_relevo"))
            .arg("serve")
            .env_clear()
            .env("RELEVO_HTTP__LISTEN", address.to_string())
            .env("RELEVO_DATA_DIR", data)
            .env("RELEVO_AUTH__API_KEY", KEY)
            .env("RELEVO_EGRESS__ALLOW_PRIVATE", "true")
            .env("RELEVO_RETRY__TRANSACTIONAL__AMBIGUOUS_WAIT", "2s")
            // These tests need long lanes. Meta's pair rate limit would stretch them over minutes.
            .env("RELEVO_INSTANCE__PAIR_INTERVAL", "1ms")
            .env("RELEVO_INSTANCE__PAIR_BURST", "1000")
            .env("RELEVO_LOG__LEVEL", "error")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { address, child }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process with SIGKILL, without a drain.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Repeats a request until the node answers, because a test may kill the node during the request.
pub async fn ask(
    client: &reqwest::Client,
    address: SocketAddr,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Value {
    eventually(path, async || {
        let request =
            client.request(method.clone(), format!("http://{address}{path}")).header("X-API-Key", KEY);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        answer.json::<Value>().await.map_err(|error| error.to_string())
    })
    .await
}
