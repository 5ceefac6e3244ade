//! The node and the sandbox as separate processes of the release binary.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

/// API key of the node.
pub const KEY: &str = "bench-key-of-the-node";

/// A running sandbox. Dropping it kills the process.
pub struct Sandbox {
    pub address: SocketAddr,
    child: Child,
}

/// A running node. Dropping it kills the process.
pub struct Node {
    pub address: SocketAddr,
    child: Child,
    data: PathBuf,
    client: reqwest::Client,
}

/// The binary of this build, or the one that `RELEVO_BENCH_BINARY` names, such as that of an earlier version.
fn binary() -> Command {
    let other = std::env::var_os("RELEVO_BENCH_BINARY");
    let mut command = Command::new(other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_relevo").as_ref()));
    command.env_clear().stdin(Stdio::null());
    command
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// User and system time of this process, which creates the load.
pub fn own_cpu() -> Duration {
    cpu(std::process::id())
}

/// User and system time of a process since its start.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

impl Sandbox {
    /// User and system time of the process since its start.
    pub fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }

    /// Starts a sandbox and waits until it listens.
    pub fn start() -> Self {
        let address = free_port();
        let mut command = binary();
        command
            .args(["sandbox", "--listen", &address.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { address, child }
    }
}

impl Node {
    /// Starts a node on a data folder and waits until it listens.
    pub fn start(data: &Path) -> Self {
        let address = free_port();
        let mut command = binary();
        command
            .arg("serve")
            .env("RELEVO_HTTP__LISTEN", address.to_string())
            .env("RELEVO_DATA_DIR", data)
            .env("RELEVO_AUTH__API_KEY", KEY)
            .env("RELEVO_EGRESS__ALLOW_PRIVATE", "true")
            .env("RELEVO_LOG__LEVEL", "warn")
            .stdout(Stdio::null());
        let child = command.spawn().unwrap();
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { address, child, data: data.to_owned(), client: reqwest::Client::new() }
    }

    /// Creates the instance `bench` and waits until it is connected.
    pub async fn create_instance(&self, sandbox: &Sandbox, per_second: f64) {
        let instance = json!({
            "instance_id": "bench",
            "rate_limit": { "per_second": per_second, "burst": 10_000 },
            "workers": 10,
            "cloud_api": {
                "phone_number_id": "100",
                "access_token": "token",
                "base_url": format!("http://{}", sandbox.address),
            }
        });
        self.ask(Method::POST, "/instances", Some(instance)).await;
        self.until(|view| view["data"]["status"] == "connected").await;
    }

    /// Changes the rate limit of the instance.
    pub async fn limit(&self, per_second: f64, burst: u32) {
        let rate = json!({ "rate_limit": { "per_second": per_second, "burst": burst } });
        self.ask(Method::PUT, "/instances/bench", Some(rate)).await;
        self.until(|view| view["data"]["status"] == "connected").await;
    }

    /// Connects the instance.
    pub async fn connect(&self) {
        self.ask(Method::POST, "/instances/bench/connect", None).await;
    }

    /// Disconnects the instance.
    pub async fn disconnect(&self) {
        self.ask(Method::POST, "/instances/bench/disconnect", None).await;
    }

    /// Waits until the queue of the instance is empty.
    pub async fn until_empty(&self) {
        self.until(|view| view["data"]["queue_depth"] == 0).await;
    }

    /// Uploads a file of `rows` rows. Returns the id of the job.
    pub async fn create_job(&self, rows: u32, first_phone: u64) -> String {
        let lines =
            (0..u64::from(rows)).map(|row| format!("{}|nombre {row}\n", 100_000_000_000 + first_phone + row));
        let file =
            reqwest::multipart::Part::bytes(lines.collect::<String>().into_bytes()).file_name("rows.csv");
        let form = reqwest::multipart::Form::new().text("message", "Hola @valor1").part("file", file);
        let url = format!("http://{}/messages/send-bulk-file", self.address);
        let answer = self.client.post(url).header("X-API-Key", KEY).multipart(form).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        answer.json::<Value>().await.unwrap()["job"]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the job is completed.
    pub async fn until_job_ends(&self, id: &str) {
        self.until_at(&format!("/jobs/{id}"), |job| job["status"] == "completed").await;
    }

    /// Number of sent rows of these jobs.
    pub async fn sent_of(&self, jobs: &[String]) -> u64 {
        let mut sent = 0;
        for id in jobs {
            let job = self.ask(Method::GET, &format!("/jobs/{id}"), None).await;
            sent += job["progress"]["sent"].as_u64().unwrap();
        }
        sent
    }

    /// Sends a command to each job.
    pub async fn command_jobs(&self, jobs: &[String], command: &str) {
        for id in jobs {
            self.ask(Method::POST, &format!("/jobs/{id}/{command}"), None).await;
        }
    }

    async fn until(&self, enough: impl Fn(&Value) -> bool) {
        self.until_at("/instances/bench", enough).await;
    }

    async fn until_at(&self, path: &str, enough: impl Fn(&Value) -> bool) {
        while !enough(&self.ask(Method::GET, path, None).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request =
            self.client.request(method, format!("http://{}{path}", self.address)).header("X-API-Key", KEY);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    /// User and system time of the process since its start.
    pub fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }

    /// Resident memory in MiB.
    pub fn rss_mib(&self) -> f64 {
        self.status_mib("VmRSS")
    }

    /// Peak of the resident memory in MiB.
    pub fn peak_rss_mib(&self) -> f64 {
        self.status_mib("VmHWM")
    }

    fn status_mib(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Disk use of the data folder in MiB.
    pub fn disk_mib(&self) -> f64 {
        fn size(path: &Path) -> u64 {
            let Ok(entries) = std::fs::read_dir(path) else { return 0 };
            let of = |entry: std::fs::DirEntry| match entry.metadata() {
                Ok(data) if data.is_dir() => size(&entry.path()),
                Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
                Err(_) => 0,
            };
            entries.flatten().map(of).sum()
        }
        size(&self.data) as f64 / f64::from(1 << 20)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
