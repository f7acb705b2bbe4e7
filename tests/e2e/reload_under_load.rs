//! What the gateway is judged by: a hundred changes, and a replacement of the process, under steady load over every
//! protocol, without one failed request.
//!
//! How long a change takes to be seen is measured and printed. It is asserted (100 ms) only where `SLUICE_JUDGED=1`
//! says that the machine is quiet and the binary a release build.

use crate::shop::HOST;
use sluice_tests::certificate::{self, Authority};
use sluice_tests::load::{Kind, Plan, Target};
use sluice_tests::objects::{
    class, gateway, http_route, join, plugin, plugin_on_route, secret, service, service_speaking,
};
use sluice_tests::{Backend, Folder, Gateway, gateway::Options, guests, ports, raw, wait};
use std::time::{Duration, Instant};

/// Changes in all; a quarter of each kind.
const CHANGES: usize = 100;

struct Site {
    folder: Folder,
    authority: Authority,
    http: u16,
    https: u16,
    backends: [Backend; 2],
    grpc: Backend,
    plugin: guests::Versioned,
}

impl Site {
    async fn new() -> Site {
        let site = Site {
            folder: Folder::new(),
            authority: Authority::default(),
            http: ports::free(),
            https: ports::free(),
            backends: [Backend::echo("blue").await, Backend::echo("green").await],
            grpc: Backend::echo("grpc").await,
            plugin: guests::versioned(),
        };
        site.folder.write("gateway.yaml", join([class(), gateway(site.http, Some((site.https, "site")))]));
        site.folder.write("grpc.yaml", service_speaking("grpc", Some("kubernetes.io/h2c"), &[site.grpc.address]));
        site.folder.write(
            "plugin.yaml",
            join([plugin("versioned", "versioned.wasm", ""), plugin_on_route("versioned", "site", "versioned", "{}")]),
        );
        site.route(0);
        site.endpoints(0);
        site.certificate();
        site.plugin_version(0);
        site
    }

    /// The answer names the route's version in a header.
    fn route(&self, version: usize) {
        let rules = format!(
            "  - matches: [{{path: {{value: /echo.Echo}}}}]\n    backendRefs: [{{name: grpc, port: 80}}]\n  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route-version, value: \"{version}\"}}]}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n"
        );
        self.folder.write("route.yaml", http_route("site", &[HOST], &rules));
    }

    /// The answer names the backend.
    fn endpoints(&self, version: usize) {
        self.folder.write("web.yaml", service("web", &[self.backends[version % 2].address]));
    }

    /// The handshake shows another leaf.
    fn certificate(&self) -> Vec<u8> {
        let leaf = self.authority.leaf(&[HOST]);
        self.folder.write("secret.yaml", secret("site", &leaf));
        leaf.der.to_vec()
    }

    /// The plugin's code sets a header to its version.
    fn plugin_version(&self, version: usize) {
        self.folder.write("versioned.wasm", self.plugin.with_version(version));
    }

    fn target(&self) -> Target {
        Target {
            http: self.http.into(),
            https: self.https.into(),
            host: HOST.to_owned(),
            tls: self.authority.trust(),
            path: "/load".to_owned(),
            grpc_path: "/echo.Echo/Chat".to_owned(),
            web_socket_path: "/chat".to_owned(),
            check: None,
        }
    }

    async fn header(&self, name: &str) -> Option<String> {
        raw::get(self.http, HOST, "/probe").await.ok()?.header(name)
    }

    async fn backend(&self) -> Option<String> {
        let answer = raw::get(self.http, HOST, "/probe").await.ok()?;
        Some(serde_json::from_slice::<serde_json::Value>(&answer.body).ok()?["backend"].as_str()?.to_owned())
    }

    async fn leaf(&self) -> Option<Vec<u8>> {
        let client = self.authority.client(&["http/1.1"]);
        Some(certificate::shown(&certificate::connect(self.https, HOST, client).await.ok()?).to_vec())
    }

    /// Makes the `n`th change and waits until a client sees it; gives how long that took, and what was changed.
    async fn change(&self, n: usize) -> (&'static str, Duration) {
        let version = n / 4 + 1;
        let start = Instant::now();
        let what = match n % 4 {
            0 => {
                self.route(version);
                seen("route", || async { self.header("x-route-version").await == Some(version.to_string()) }).await
            }
            1 => {
                self.endpoints(version);
                let name = ["blue", "green"][version % 2];
                seen("endpoint", || async { self.backend().await.as_deref() == Some(name) }).await
            }
            2 => {
                let leaf = self.certificate();
                seen("certificate", || async { self.leaf().await.as_ref() == Some(&leaf) }).await
            }
            _ => {
                self.plugin_version(version);
                let wanted = guests::Versioned::name(version);
                seen("plugin", || async { self.header("x-plugin-version").await.as_ref() == Some(&wanted) }).await
            }
        };
        (what, start.elapsed())
    }
}

async fn seen<F: Future<Output = bool>>(what: &'static str, probe: impl Fn() -> F) -> &'static str {
    wait::until(what, || async { probe().await.then_some(()) }).await;
    what
}

fn judged() -> bool {
    std::env::var_os("SLUICE_JUDGED").is_some_and(|v| v == "1")
}

fn print_delays(what: &str, mut delays: Vec<Duration>) {
    delays.sort_unstable();
    let at = |q: f64| delays[((delays.len() - 1) as f64 * q).round() as usize];
    println!(
        "{what:<12} {:>3} changes seen after: median {:?}, p90 {:?}, longest {:?}",
        delays.len(),
        at(0.5),
        at(0.9),
        at(1.0)
    );
    if judged() {
        assert!(at(1.0) <= Duration::from_millis(100), "a change of a {what} was seen after {:?}", at(1.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_fail_no_request_and_cut_no_stream() {
    let site = Site::new().await;
    let gateway = Gateway::start(&site.folder).await;
    seen("the plugin", || async { site.header("x-plugin-version").await == Some(guests::Versioned::name(0)) }).await;
    let load = Plan::default().start(&site.target());
    load.settled(&Kind::ALL, 5).await;
    let mut delays: std::collections::BTreeMap<&str, Vec<Duration>> = std::collections::BTreeMap::new();
    for n in 0..CHANGES {
        let (what, delay) = site.change(n).await;
        delays.entry(what).or_default().push(delay);
        // The load sees the new state before the next change, or the changes would melt into one.
        load.settled(&[Kind::Http1, Kind::Http2, Kind::NewTls], 3).await;
    }
    let report = load.stop().await;
    println!("{report}");
    delays.into_iter().for_each(|(what, delays)| print_delays(what, delays));
    report.assert_flawless(&Kind::ALL);
    for kind in [Kind::Grpc, Kind::WebSocket] {
        assert_eq!(report.replaced.get(&kind), None, "a stream was ended by a reload");
    }
    drop(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_process_fails_no_request() {
    let site = Site::new().await;
    let mut old = Gateway::start(&site.folder).await;
    seen("the plugin", || async { site.header("x-plugin-version").await == Some(guests::Versioned::name(0)) }).await;
    let load = Plan::default().start(&site.target());
    load.settled(&Kind::ALL, 5).await;

    let new = Options::successor_of(&site.folder, &old).without_waiting().start().await;
    new.says_ready().await;
    assert!(old.exited().await.success(), "{}", old.log().join("\n"));
    load.settled(&Kind::ALL, 5).await;

    // A change and SIGTERM go to the new process alone: the old one has gone.
    site.change(0).await;
    load.settled(&Kind::ALL, 5).await;
    let report = load.stop().await;
    println!("{report}");
    report.assert_flawless(&Kind::ALL);
    assert!(new.stop().await.success());
}
