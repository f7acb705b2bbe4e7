//! `sluice plugin run`: a gateway with one plugin before a backend, for its author to try it in. It is the ordinary gateway,
//! given a folder of objects; what is saved in the project is built and swapped in.

use super::build::{self, replace};
use super::project::{self, Project};
use crate::output::{self, Tint};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser};
use http::Uri;
use notify::{Event, EventKind, RecursiveMode, Watcher};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Quiet time after which a change counts as complete: editors write several files, and some twice.
const QUIET: Duration = Duration::from_millis(100);

/// Longest wait for somebody to answer at an address of the upstream's.
const CONNECT: Duration = Duration::from_secs(1);

/// Seconds for running requests to end after Ctrl-C.
const DRAIN: &str = "2";

/// What builds write, and what is no source.
const IGNORED: [&str; 8] =
    ["build", "target", ".venv", "node_modules", ".git", "__pycache__", "Cargo.lock", "package-lock.json"];

/// Try the project: a gateway with this one plugin before a backend, which builds and swaps it when a file is saved
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Where requests go: http://HOST:PORT or https://HOST
    #[arg(long, value_name = "URL")]
    upstream: Uri,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The plugin's configuration, a file of YAML or JSON that is watched too [default: the project's config.yaml, if it
    /// has one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The project's folder
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// A level, or targets with levels, of the gateway's own log
    #[arg(long, value_name = "FILTER", default_value = "info", env = "SLUICE_LOG")]
    log_level: String,
}

/// `sluice run`, to be given a command line: all that is not said keeps its default.
#[derive(Parser, Debug)]
struct Gateway {
    #[command(flatten)]
    args: crate::run::RunArgs,
}

pub(crate) fn run(args: RunArgs) -> Result<ExitCode> {
    ensure!(args.listen.port() != 0, "--listen {}: port 0 can't be asked for", args.listen);
    let project = Project::open(&args.project)?;
    let upstream = Upstream::of(&args.upstream)?;
    let default_config = project.folder.join("config.yaml");
    let config = args.config.or_else(|| default_config.is_file().then_some(default_config));
    let trial = Trial { project, config, folder: tempfile::tempdir()?, listen: args.listen, upstream };
    let module = build::build(&trial.project)?;
    trial.place(&module)?;
    trial.write_objects()?;
    let (news, saved) = sync_channel(1);
    let watcher = trial.watch(news)?;
    let gateway = trial.gateway(&args.log_level)?;
    let (before, after) = Tint::Bold.codes(output::colours());
    println!("{before}http://{}{after} goes through the plugin to {}; Ctrl-C ends it", args.listen, args.upstream);
    std::thread::scope(|scope| {
        let follow = std::thread::Builder::new().name("plugin-project".to_owned());
        let trial = &trial;
        follow.spawn_scoped(scope, move || trial.follow(&saved))?;
        let code = crate::run::run(gateway);
        // Ends the thread that follows.
        drop(watcher);
        code
    })
}

/// Where requests go.
#[derive(Debug)]
struct Upstream {
    /// Where it has a name that is more than this host's own.
    host: Option<String>,
    address: IpAddr,
    port: u16,
    tls: bool,
}

impl Upstream {
    fn of(url: &Uri) -> Result<Upstream> {
        let tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("--upstream {url}: write http://HOST:PORT or https://HOST"),
        };
        ensure!(matches!(url.path(), "" | "/") && url.query().is_none(), "--upstream {url}: leave out path and query");
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let found = (host, port).to_socket_addrs().with_context(|| format!("--upstream {url}"))?;
        let addresses: Vec<SocketAddr> = found.collect();
        let answers = addresses.iter().find(|address| TcpStream::connect_timeout(address, CONNECT).is_ok());
        if answers.is_none() {
            eprintln!("sluice: nobody answers at {url} yet: requests get 503 until somebody does");
        }
        let address = answers.or(addresses.first()).with_context(|| format!("--upstream {url}: no address"))?.ip();
        let has_name = host.parse::<IpAddr>().is_err();
        ensure!(has_name || !tls, "--upstream {url}: a certificate is of a name: write https://NAME");
        let host = (has_name && host != "localhost").then(|| host.to_ascii_lowercase());
        ensure!(host.is_some() || !tls, "--upstream {url}: a certificate is of a name that others know");
        Ok(Upstream { host, address, port, tls })
    }
}

/// One project that is tried out.
struct Trial {
    project: Project,
    config: Option<PathBuf>,
    /// What the gateway reads.
    folder: tempfile::TempDir,
    listen: SocketAddr,
    upstream: Upstream,
}

impl Trial {
    fn place(&self, module: &Path) -> Result<()> {
        let bytes = std::fs::read(module).with_context(|| module.display().to_string())?;
        let file = self.folder.path().join("plugin.wasm");
        if std::fs::read(&file).is_ok_and(|former| former == bytes) {
            return Ok(());
        }
        replace(&file, &bytes)
    }

    fn write_objects(&self) -> Result<()> {
        let config = match &self.config {
            Some(file) => project::configuration(file)?,
            None => json!({}),
        };
        let documents = objects(self.listen, &self.upstream, &config);
        let text: String = documents.iter().map(|object| format!("---\n{object}\n")).collect();
        let file = self.folder.path().join("trial.yaml");
        if std::fs::read_to_string(&file).is_ok_and(|former| former == text) {
            return Ok(());
        }
        replace(&file, text.as_bytes())
    }

    /// The gateway's command line.
    fn gateway(&self, log_level: &str) -> Result<crate::run::RunArgs> {
        let state = self.project.build_folder().join("state");
        let mut line: Vec<OsString> = vec!["sluice".into(), "--config".into(), self.folder.path().into()];
        line.extend(["--state-dir".into(), state.into(), "--log-level".into(), log_level.into()]);
        let fixed = ["--metrics-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--drain-timeout", DRAIN];
        line.extend(fixed.map(OsString::from));
        Ok(Gateway::try_parse_from(line)?.args)
    }

    /// Tells of changes of sources, and of the configuration.
    fn watch(&self, news: SyncSender<()>) -> Result<impl Watcher + use<>> {
        let folder = self.project.folder.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let is_source = |path: &PathBuf| {
                let inside = path.strip_prefix(&folder).unwrap_or(path);
                !inside.components().any(|part| IGNORED.iter().any(|ignored| part.as_os_str() == *ignored))
            };
            let matters = event
                .is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(is_source));
            if matters {
                // One that waits already says the same.
                let _ = news.try_send(());
            }
        })?;
        let mut watch = |path: &Path, mode| watcher.watch(path, mode).with_context(|| path.display().to_string());
        watch(&self.project.folder, RecursiveMode::NonRecursive)?;
        for entry in std::fs::read_dir(&self.project.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && !IGNORED.iter().any(|ignored| entry.file_name() == *ignored) {
                watch(&entry.path(), RecursiveMode::Recursive)?;
            }
        }
        if let Some(folder) = self.config.as_ref().and_then(|file| file.parent()) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let folder = std::fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
            if !folder.starts_with(&self.project.folder) {
                watch(&folder, RecursiveMode::NonRecursive)?;
            }
        }
        Ok(watcher)
    }

    /// Builds what is saved, until the watch ends.
    fn follow(&self, saved: &Receiver<()>) {
        while saved.recv().is_ok() {
            loop {
                match saved.recv_timeout(QUIET) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            let built =
                self.write_objects().and_then(|()| build::build(&self.project)).and_then(|module| self.place(&module));
            match built {
                Ok(()) => tracing::info!("built; the gateway takes it over when it is compiled"),
                Err(error) => tracing::error!(error = format!("{error:#}"), "the version before goes on"),
            }
        }
    }
}

/// All that the gateway is given.
fn objects(listen: SocketAddr, upstream: &Upstream, config: &Value) -> Vec<Value> {
    let named = |name: &str| json!({"name": name, "namespace": "local"});
    let gateway_api = "gateway.networking.k8s.io/v1";
    let addresses =
        if listen.ip().is_unspecified() { json!([]) } else { json!([{"type": "IPAddress", "value": listen.ip()}]) };
    let filters = match &upstream.host {
        Some(host) => json!([{"type": "URLRewrite", "urlRewrite": {"hostname": host}}]),
        None => json!([]),
    };
    let mut objects = vec![
        json!({
            "apiVersion": gateway_api, "kind": "GatewayClass", "metadata": {"name": "sluice"},
            "spec": {
                "controllerName": "sluice.dev/gateway-controller",
                "parametersRef": {"group": "sluice.dev", "kind": "GatewayConfig", "name": "trial", "namespace": "local"},
            },
        }),
        json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "GatewayConfig", "metadata": named("trial"),
            "spec": {"accessLog": {
                "fields": ["method", "path", "status", "reason", "duration_ms", "plugin_ms", "attributes"],
            }},
        }),
        json!({
            "apiVersion": gateway_api, "kind": "Gateway", "metadata": named("trial"),
            "spec": {
                "gatewayClassName": "sluice",
                "addresses": addresses,
                "listeners": [{"name": "http", "port": listen.port(), "protocol": "HTTP"}],
            },
        }),
        json!({
            "apiVersion": gateway_api, "kind": "HTTPRoute", "metadata": named("trial"),
            "spec": {
                "parentRefs": [{"name": "trial"}],
                "rules": [{"filters": filters, "backendRefs": [{"name": "upstream", "port": 80}]}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": named("upstream"),
            "spec": {"ports": [{"name": "http", "port": 80}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "upstream", "namespace": "local", "labels": {"kubernetes.io/service-name": "upstream"},
            },
            "addressType": if upstream.address.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": [{"name": "http", "port": upstream.port}],
            "endpoints": [{"addresses": [upstream.address]}],
        }),
        json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": named("plugin"),
            "spec": {"source": {"file": {"path": "plugin.wasm"}}},
        }),
        json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": named("trial"),
            "spec": {
                "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "trial"}],
                "plugins": [{"name": "plugin", "pluginRef": {"name": "plugin"}, "config": config}],
            },
        }),
    ];
    if let Some(host) = upstream.host.as_ref().filter(|_| upstream.tls) {
        objects.push(json!({
            "apiVersion": gateway_api, "kind": "BackendTLSPolicy", "metadata": named("upstream"),
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "upstream"}],
                "validation": {"hostname": host, "wellKnownCACertificates": "System"},
            },
        }));
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_given_nothing_that_it_objects_to() {
        let upstreams = [
            Upstream { host: None, address: "127.0.0.1".parse().unwrap(), port: 3000, tls: false },
            Upstream {
                host: Some("shop.example".into()),
                address: "2001:db8::1".parse().unwrap(),
                port: 443,
                tls: true,
            },
        ];
        for upstream in upstreams {
            let folder = tempfile::tempdir().unwrap();
            let objects = objects("127.0.0.1:8080".parse().unwrap(), &upstream, &json!({"a": 1}));
            let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
            std::fs::write(folder.path().join("trial.yaml"), text).unwrap();
            std::fs::write(folder.path().join("plugin.wasm"), b"\0asm").unwrap();
            let reading = crate::check::read(&[folder.path().to_owned()]).unwrap();
            assert_eq!(reading.problems, []);
            assert_eq!(reading.config.plugins.len(), 1);
        }
    }

    #[test]
    fn an_upstream_is_a_scheme_and_a_place() {
        let error = |url: &str| Upstream::of(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error("localhost:3000").contains("write http://HOST:PORT"));
        assert!(error("http://127.0.0.1:3000/api").contains("leave out path and query"));
        assert!(error("https://127.0.0.1:1").contains("a certificate is of a name"));
    }
}
