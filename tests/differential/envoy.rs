//! A real Envoy, as scripts/setup-envoy.sh installs it.

use serde_json::{Value, json};
use sluice_tests::{binary, wait};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::process::Child;

/// Killed when dropped.
pub(crate) struct Envoy {
    _child: Child,
    _folder: tempfile::TempDir,
}

/// A filter before a port.
pub(crate) struct Port {
    pub(crate) filter: &'static str,
    pub(crate) config: Value,
    pub(crate) module: PathBuf,
    pub(crate) port: u16,
}

/// A cluster, and whether it speaks HTTP/2.
pub(crate) struct Cluster {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) http2: bool,
}

/// The binary, installed where it is missing.
fn installed() -> PathBuf {
    let script = binary::root().join("scripts/setup-envoy.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect("scripts/setup-envoy.sh starts");
    assert!(output.status.success(), "scripts/setup-envoy.sh failed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

impl Envoy {
    /// `routes`: what host goes to which cluster.
    pub(crate) async fn start(ports: &[Port], routes: &[(&str, &str)], clusters: &[Cluster]) -> Envoy {
        let folder = tempfile::TempDir::with_prefix("sluice-envoy-").expect("a temporary folder");
        let file = folder.path().join("envoy.json");
        let config = json!({
            "static_resources": {
                "listeners": ports.iter().map(|port| listener(port, routes)).collect::<Vec<_>>(),
                "clusters": clusters.iter().map(cluster).collect::<Vec<_>>(),
            }
        });
        std::fs::write(&file, config.to_string()).expect("the configuration is written");
        let log = folder.path().join("envoy.log");
        let output = std::fs::File::create(&log).expect("a file for the log");
        let mut child = tokio::process::Command::new(installed())
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the same file"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("Envoy starts");
        let start = Instant::now();
        for port in ports {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port.port)).await.is_err() {
                let told = || std::fs::read_to_string(&log).unwrap_or_default();
                if let Ok(Some(status)) = child.try_wait() {
                    panic!("Envoy ended with {status}:\n{}", told());
                }
                assert!(start.elapsed() < wait::DEADLINE, "Envoy does not listen:\n{}", told());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Envoy { _child: child, _folder: folder }
    }
}

fn listener(port: &Port, routes: &[(&str, &str)]) -> Value {
    let routes: Vec<_> = routes
        .iter()
        .map(|(host, cluster)| {
            // By the case's name, which ends with the host's first label: Envoy looks for the route anew when a filter changes a
            // field, and a filter may change the host.
            let label = host.split('.').next();
            let named = json!([{"name": "x-case", "string_match": {"suffix": label}}]);
            json!({"match": {"prefix": "/", "headers": named}, "route": {"cluster": cluster}})
        })
        .collect();
    json!({
        "name": port.filter,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port.port}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "edge",
                "generate_request_id": false,
                "use_remote_address": true,
                "server_header_transformation": "PASS_THROUGH",
                "route_config": {"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
                "http_filters": [wasm(port), {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": true,
                    },
                }],
            },
        }]}],
    })
}

fn wasm(port: &Port) -> Value {
    let mut config = json!({
        "name": port.filter,
        "vm_config": {
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": port.module}},
        },
    });
    if !port.config.is_null() {
        config["configuration"] = port.config.clone();
    }
    json!({
        "name": "envoy.filters.http.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": config,
        },
    })
}

fn cluster(cluster: &Cluster) -> Value {
    let mut value = json!({
        "name": cluster.name,
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": cluster.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": cluster.address.ip().to_string(),
                "port_value": cluster.address.port(),
            }}}}]}],
        },
    });
    if cluster.http2 {
        value["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    value
}
