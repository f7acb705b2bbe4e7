//! kubectl, helm and what both are asked for again and again.

use serde_json::Value;
use sluice_tests::{Address, binary, wait};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// The image of Sluice, which is loaded on every node; `sluice echo` in it is the backends' program.
pub(crate) fn image() -> String {
    std::env::var("SLUICE_TEST_IMAGE").expect("SLUICE_TEST_IMAGE names the image; run tests/cluster/test")
}

/// The namespace that Sluice is installed in, and the release's name.
pub(crate) const NAMESPACE: &str = "sluice-system";
pub(crate) const RELEASE: &str = "sluice";

/// Long enough for pods that end slowly on a busy machine; a test that meets it has failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs a program with this on its standard input; answers what it printed, or what went wrong.
async fn output(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started ({error}); run tests/cluster/test"));
    let mut stdin = child.stdin.take().expect("it is a pipe");
    stdin.write_all(input.as_bytes()).await.map_err(|error| error.to_string())?;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{program} {}: {said}{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// Any other program of the cluster's.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    output(program, arguments, "").await
}

/// `kubectl …`, as one would type it.
pub(crate) async fn try_kubectl(line: &str) -> Result<String, String> {
    output("kubectl", &line.split_whitespace().collect::<Vec<_>>(), "").await
}

pub(crate) async fn kubectl(line: &str) -> String {
    try_kubectl(line).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The same, with arguments that hold spaces.
pub(crate) async fn kubectl_with(arguments: &[&str]) -> String {
    output("kubectl", arguments, "").await.unwrap_or_else(|error| panic!("{error}"))
}

/// The test cluster's own driver: stops its components and starts them again.
pub(crate) async fn driver(arguments: &[&str]) {
    output("sluice-cluster", arguments, "").await.unwrap_or_else(|error| panic!("{error}"));
}

pub(crate) async fn try_apply(namespace: &str, objects: &str) -> Result<String, String> {
    output("kubectl", &["apply", "--server-side", "--force-conflicts", "-n", namespace, "-f", "-"], objects).await
}

pub(crate) async fn apply(namespace: &str, objects: &str) {
    try_apply(namespace, objects).await.unwrap_or_else(|error| panic!("{error}\n{objects}"));
}

pub(crate) async fn helm(arguments: &[&str]) -> Result<String, String> {
    output("helm", arguments, "").await
}

/// `kubectl get … -o json`.
pub(crate) async fn get(what: &str) -> Value {
    serde_json::from_str(&kubectl(&format!("get {what} -o json")).await).expect("kubectl prints JSON")
}

/// Calls `probe` until it gives something; panics with `what` where that takes too long.
pub(crate) async fn until<T, F>(what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    wait::until_within(PATIENCE, what, probe).await
}

/// The same, for what several proxies answer: they may be a moment apart. A connection reaches any of them, so twenty in
/// a row leave out one of two once in a million times.
pub(crate) async fn until_everywhere<F>(what: &str, mut probe: impl FnMut() -> F)
where
    F: Future<Output = Option<()>>,
{
    let start = Instant::now();
    let mut row = 0;
    while row < 20 {
        row = if probe().await.is_some() { row + 1 } else { 0 };
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        if row == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A namespace that goes when the test is over, and did not outlive a test before.
pub(crate) struct Namespace(pub(crate) &'static str);

impl Namespace {
    pub(crate) async fn create(name: &'static str) -> Namespace {
        kubectl(&format!("delete namespace {name} --ignore-not-found --wait=true")).await;
        kubectl(&format!("create namespace {name}")).await;
        Namespace(name)
    }

    /// Has it deleted; how long that takes is nobody's concern.
    pub(crate) async fn delete(self) {
        kubectl(&format!("delete namespace {} --wait=false", self.0)).await;
    }

    pub(crate) async fn apply(&self, objects: &str) {
        apply(self.0, objects).await;
    }

    pub(crate) async fn kubectl(&self, line: &str) -> String {
        kubectl(&format!("-n {} {line}", self.0)).await
    }

    pub(crate) async fn get(&self, what: &str) -> Value {
        get(&format!("-n {} {what}", self.0)).await
    }

    /// Waits until all pods of the Deployment are of its newest form, are ready, and no other is left.
    pub(crate) async fn rolled_out(&self, deployment: &str) {
        self.kubectl(&format!("rollout status deployment/{deployment} --timeout=180s")).await;
        let wanted = self.get(&format!("deployment {deployment}")).await["spec"]["replicas"].as_u64();
        until(&format!("the former pods of {deployment} to go"), || async {
            let pods = self.get(&format!("pods -l app={deployment}")).await["items"].as_array()?.len();
            (Some(pods as u64) == wanted).then_some(())
        })
        .await;
    }

    /// The pods of a Deployment that are ready, and are to stay.
    pub(crate) async fn ready_pods(&self, deployment: &str) -> Vec<Pod> {
        self.pods(&format!("app={deployment}")).await
    }

    /// The pods with these labels that are ready, and are to stay.
    pub(crate) async fn pods(&self, labels: &str) -> Vec<Pod> {
        let pods = self.get(&format!("pods -l {labels}")).await;
        let pods = pods["items"].as_array().expect("a list").iter();
        pods.filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| Pod {
                name: pod["metadata"]["name"].as_str().expect("a name").to_owned(),
                ip: pod["status"]["podIP"].as_str().expect("an address").parse().expect("an IP address"),
                node: pod["spec"]["nodeName"].as_str().expect("a node").to_owned(),
            })
            .collect()
    }

    pub(crate) async fn cluster_ip(&self, service: &str) -> IpAddr {
        let service = self.get(&format!("service {service}")).await;
        service["spec"]["clusterIP"].as_str().expect("a ClusterIP").parse().expect("an IP address")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) node: String,
}

impl Pod {
    /// Asks from within the pod's network: a client in the cluster.
    pub(crate) async fn ask(&self, to: SocketAddr, host: &str, path: &str) -> Result<String, String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let network = format!("--net=/proc/{}/ns/net", self.process());
        let shell = "exec 3<>\"/dev/tcp/$0/$1\" && printf %s \"$2\" >&3 && cat <&3";
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        run("timeout", &["10", "nsenter", &network, "bash", "-c", shell, &ip, &port, &request]).await
    }

    /// Kills the process of its one container, which then starts again.
    pub(crate) fn kill(&self) {
        let killed = std::process::Command::new("kill").args(["-KILL", &self.process()]).status();
        assert!(killed.expect("kill runs").success());
    }

    /// As this host numbers it.
    fn process(&self) -> String {
        let name = format!("HOSTNAME={}", self.name);
        let processes = std::fs::read_dir("/proc").expect("this is Linux").filter_map(Result::ok);
        let mut numbers = processes.filter_map(|process| {
            let environment = std::fs::read(process.path().join("environ")).ok()?;
            let its = environment.split(|byte| *byte == 0).any(|variable| variable == name.as_bytes());
            its.then(|| process.file_name().to_string_lossy().into_owned())
        });
        numbers.next().unwrap_or_else(|| panic!("no process of {}", self.name))
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The chart's folder.
pub(crate) fn chart() -> String {
    binary::root().join("deploy/helm/sluice").display().to_string()
}

/// Sluice, installed by its chart; the address of its LoadBalancer.
#[derive(Clone, Copy)]
pub(crate) struct Sluice {
    pub(crate) ip: IpAddr,
}

impl Sluice {
    /// Installed once for all tests of this process; what it serves, and the nodes' kube-proxies, may be a moment behind.
    pub(crate) async fn installed() -> Sluice {
        static SLUICE: OnceCell<Sluice> = OnceCell::const_new();
        let install = || async {
            // Pods of Sluice pass the strictest of Kubernetes' standards, or they would not start.
            apply(
                "default",
                &format!(
                    "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels: {{pod-security.kubernetes.io/enforce: restricted}}\n"
                ),
            )
            .await;
            Sluice::upgrade(&[]).await;
            Sluice { ip: load_balancer(NAMESPACE, RELEASE).await }
        };
        *SLUICE.get_or_init(install).await
    }

    /// `helm upgrade --install` with these values beside those that all tests want; waits until it is rolled out.
    pub(crate) async fn upgrade(values: &[&str]) {
        let (chart, image) = (chart(), image());
        let (repository, tag) = image.rsplit_once(':').expect("the image has a tag");
        let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
        let mut arguments = vec!["upgrade", "--install", RELEASE, &chart, "--namespace", NAMESPACE];
        arguments.extend(["--set", &repository, "--set-string", &tag, "--wait", "--timeout", "180s"]);
        arguments.extend(["--set", "config.externalNames.allow={svc.cluster.local}"]);
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        helm(&arguments).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The HTTP and HTTPS addresses of a Gateway: those of its own Service where a controller makes one, or else the
    /// listeners are the proxies' own.
    pub(crate) async fn gateway(self, namespace: &Namespace, name: &str) -> (Address, Address) {
        let controllers = format!("-n {NAMESPACE} deployments -l app.kubernetes.io/component=controller");
        if get(&controllers).await["items"].as_array().is_none_or(Vec::is_empty) {
            return (self.http(), self.https());
        }
        let ip: IpAddr = until(&format!("an address of Gateway {name}"), || async {
            let gateway = namespace.get(&format!("gateway {name}")).await;
            gateway["status"]["addresses"][0]["value"].as_str()?.parse().ok()
        })
        .await;
        (SocketAddr::new(ip, 80).into(), SocketAddr::new(ip, 443).into())
    }

    pub(crate) fn http(self) -> Address {
        SocketAddr::from((self.ip, 80)).into()
    }

    pub(crate) fn https(self) -> Address {
        SocketAddr::from((self.ip, 443)).into()
    }
}

/// The address of a Service of type LoadBalancer.
pub(crate) async fn load_balancer(namespace: &str, service: &str) -> IpAddr {
    until(&format!("an address of Service {namespace}/{service}"), || async {
        let service = get(&format!("-n {namespace} service {service}")).await;
        service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?.parse().ok()
    })
    .await
}
