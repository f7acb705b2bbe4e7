//! The gateway under test: one `sluice run` a value, stopped by its own process id.

use crate::api_server::ApiServer;
use crate::binary;
use crate::folder::Folder;
use crate::{ports, wait};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// Killed when dropped; [`Gateway::stop`] ends it as an operator would.
pub struct Gateway {
    child: Child,
    /// /metrics, /livez and /readyz.
    pub public: SocketAddr,
    /// /config and the rest that never leaves the host.
    pub admin: SocketAddr,
    log: Lines,
    access_log: PathBuf,
}

type Lines = Arc<Mutex<Vec<String>>>;

/// How a gateway is started.
pub struct Options {
    source: Vec<String>,
    state: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, std::ffi::OsString)>,
    wait_for_ready: bool,
    label: &'static str,
    addresses: Option<(SocketAddr, SocketAddr)>,
    socket: Option<std::net::TcpListener>,
}

impl Options {
    pub fn new(folder: &Folder) -> Self {
        Options {
            source: vec!["--config".to_owned(), folder.path().display().to_string()],
            state: folder.state(),
            arguments: Vec::new(),
            environment: Vec::new(),
            wait_for_ready: true,
            label: "first",
            addresses: None,
            socket: None,
        }
    }

    /// Passes a listening socket on as systemd does (sd_listen_fds(3)).
    pub fn socket(mut self, socket: std::net::TcpListener) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Reads from `server` instead of the folder, which holds the kubeconfig and the state.
    pub fn from_cluster(folder: &Folder, server: &ApiServer) -> Self {
        let file = folder.state().join("kubeconfig");
        std::fs::write(&file, server.kubeconfig()).expect("the kubeconfig is written");
        let source = ["--kube", "--kubeconfig", &file.display().to_string()].map(str::to_owned).to_vec();
        Options { source, ..Options::new(folder) }
    }

    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn environment(mut self, name: &'static str, value: impl Into<std::ffi::OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Tells two gateways of one folder apart in failures.
    pub fn label(mut self, label: &'static str) -> Self {
        self.label = label;
        self
    }

    /// The process that takes over from `running`: `--upgrade`, the same addresses, the same state.
    pub fn successor_of(folder: &Folder, running: &Gateway) -> Self {
        let options = Options::new(folder).label("second").argument("--upgrade");
        Options { addresses: Some((running.public, running.admin)), ..options }
    }

    /// Returns before the gateway is ready, for tests of readiness itself.
    pub fn without_waiting(mut self) -> Self {
        self.wait_for_ready = false;
        self
    }

    pub async fn start(self) -> Gateway {
        let fresh = || SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let (public, admin) = self.addresses.unwrap_or_else(|| (fresh(), fresh()));
        let access_log = self.state.join(format!("access-{}-{}.log", self.label, public.port()));
        let (mut command, stdin) = match self.socket {
            None => (Command::new(binary::sluice()), Stdio::null()),
            // The shell moves it to descriptor 3, and becomes the gateway: LISTEN_PID is the process that it names.
            Some(socket) => {
                let mut shell = Command::new("sh");
                let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
                shell.args(["-c", script]).arg(binary::sluice());
                (shell, Stdio::from(std::os::fd::OwnedFd::from(socket)))
            }
        };
        let mut child = command
            .arg("run")
            .args(&self.source)
            .args(["--metrics-address", &public.to_string(), "--admin-address", &admin.to_string()])
            .arg("--access-log")
            .arg(&access_log)
            .arg("--state-dir")
            .arg(&self.state)
            .args(["--log-format", "json"])
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let log = Lines::default();
        collect(child.stdout.take().unwrap(), log.clone());
        collect(child.stderr.take().unwrap(), log.clone());
        let mut gateway = Gateway { child, public, admin, log, access_log };
        if self.wait_for_ready {
            gateway.ready().await;
        }
        gateway
    }
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static, into: Lines) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            into.lock().unwrap().push(line);
        }
    });
}

impl Gateway {
    /// Starts on `folder` and waits for /readyz.
    pub async fn start(folder: &Folder) -> Gateway {
        Options::new(folder).start().await
    }

    /// Waits until it says so itself: while a process is replaced, /readyz may be answered by either of the two.
    pub async fn says_ready(&self) {
        wait::until("the gateway to say that it is ready", || async {
            self.log().iter().any(|line| line.contains("\"message\":\"ready\"")).then_some(())
        })
        .await;
    }

    pub async fn ready(&mut self) {
        let start = std::time::Instant::now();
        while !matches!(self.public_get("/readyz").await, Ok((200, _))) {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the gateway ended with {status}:\n{}", self.log().join("\n"));
            }
            assert!(start.elapsed() < wait::DEADLINE, "not ready in time:\n{}", self.log().join("\n"));
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        kill_process(pid, signal).expect("the process is ours");
    }

    /// Limits its address space to so many bytes from now on; `None` lifts the limit.
    pub fn limit_address_space(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid), Resource::As, limit).expect("a limit of our own process");
    }

    /// SIGTERM, and the exit.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exited().await
    }

    pub async fn exited(&mut self) -> ExitStatus {
        match tokio::time::timeout(2 * wait::DEADLINE, self.child.wait()).await {
            Ok(status) => status.expect("its exit can be waited for"),
            Err(_) => panic!("it did not stop:\n{}", self.log().join("\n")),
        }
    }

    /// What it wrote to its standard output and error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The access log so far, one value a request.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn access_log_file(&self) -> &std::path::Path {
        &self.access_log
    }

    /// Waits until a line of the access log satisfies `wanted`; it is written after the answer was sent.
    pub async fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        wait::until("a line in the access log", || async { self.access_log().into_iter().find(|line| wanted(line)) })
            .await
    }

    pub async fn admin_get(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(self.admin, path).await
    }

    pub async fn public_get(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(self.public, path).await
    }

    /// The sum of a metric's series whose labels contain each of `labels` (as `code="404"`); 0 where there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.public_get("/metrics").await.expect("metrics answer");
        metric_in(&text, name, labels)
    }

    /// Resident memory in bytes (VmRSS).
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel says so");
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// The sum of a metric's series that have all of these texts in their labels.
pub fn metric_in(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            let base = series.split('{').next().unwrap_or(series);
            base == name && labels.iter().all(|label| series.contains(label))
        })
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

/// One GET on a connection of its own.
async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut client = crate::raw::Client::connect(address).await?;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await?;
    let response = client.response().await?;
    Ok((response.status, response.text()))
}
