//! Each policy that ships, by its own page: the objects that its README shows are served, and its command lines print what
//! it shows.
//!
//! The route `shop` of the host shop.example goes to an echo of requests; there are a service `auth` that knows one token, and
//! an issuer of tokens, `idp`, which browsers reach as idp.example. Names are looked up and certificates trusted as a
//! reader's would be, and addresses of clients are believed (`X-Forwarded-For`), so that commands are those of the page. An
//! `…` stands for anything.

use http::{HeaderValue, StatusCode};
use serde_json::Value;
use sluice_tests::backend::{Handler, text};
use sluice_tests::certificate::Authority;
use sluice_tests::objects::{class, configured_gateway, join, route_to, secret, service};
use sluice_tests::{Backend, Folder, Gateway, binary, console, guests, ports, wait};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod provider;

const HOST: &str = "shop.example";
const PROVIDER: &str = "idp.example";
/// How long a debug build of the gateway may take to compile a plugin, on a thread of low priority, while others take the cores.
const COMPILED: Duration = Duration::from_secs(400);

struct Stage {
    _gateway: Gateway,
    /// Where commands run.
    place: tempfile::TempDir,
    prelude: String,
    _backends: [Backend; 3],
    _folder: Folder,
}

fn readme(policy: &str) -> String {
    let path: PathBuf = binary::root().join("plugins").join(policy).join("README.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The one block of a language that the page has.
fn example(page: &str, policy: &str) -> String {
    let blocks: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect();
    let [example] = &blocks[..] else { panic!("{policy}: the page has {} examples in YAML, not one", blocks.len()) };
    // Namespaces of tests are one; the page's is its reader's.
    format!("{}\n", patient(&example.replace("namespace: shop", "namespace: default")))
}

/// On a busy machine a call takes longer than it runs: the limits on time are not what a page is about.
fn patient(example: &str) -> String {
    const PATIENCE: &str = "runTime: 2s, deadline: 10s";
    let Some((before, rest)) = example.split_once("  limits: {") else {
        return example.replacen("  source: {", &format!("  limits: {{{PATIENCE}}}\n  source: {{"), 1);
    };
    let (limits, after) = rest.split_once('}').expect("limits in one line");
    let others = limits.split(", ").filter(|limit| !limit.starts_with("runTime:") && !limit.starts_with("deadline:"));
    let limits: Vec<&str> = std::iter::once(PATIENCE).chain(others).collect();
    format!("{before}  limits: {{{}}}{after}", limits.join(", "))
}

/// A service of authorization: who brings its token is ann.
fn authorization() -> Handler {
    Arc::new(|request| {
        let known = request.headers().get("authorization").is_some_and(|value| value == "Bearer let-me-in");
        let mut answer =
            if known { text(StatusCode::OK, "") } else { text(StatusCode::UNAUTHORIZED, "who are you?\n") };
        let asked = request.uri().path_and_query().map_or("", |target| target.as_str());
        answer.headers_mut().insert("x-asked", HeaderValue::from_str(asked).unwrap());
        if known {
            answer.headers_mut().insert("x-user", HeaderValue::from_static("ann"));
            answer.headers_mut().insert("set-cookie", HeaderValue::from_static("session=1"));
        }
        Box::pin(async move { answer })
    })
}

/// Keys and tokens that jwt's own tests go by.
fn tokens() -> Value {
    let path = binary::root().join("plugins/jwt/tests/tokens.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn token(name: &str) -> String {
    tokens()["tokens"][name].as_str().unwrap().to_owned()
}

impl Stage {
    async fn set(policy: &str, example: &str) -> Stage {
        let (folder, authority) = (Folder::new(), Authority::default());
        let [web, auth, idp] = [
            Backend::echo("web").await,
            Backend::with(authorization()).await,
            Backend::with(provider::handler()).await,
        ];
        let (http, https) = (ports::free(), ports::free());
        folder.write(
            "stage.yaml",
            join([
                class(),
                configured_gateway(http, Some((https, "shop")), "trustedProxies: [127.0.0.0/8]"),
                secret("shop", &authority.leaf(&[HOST, PROVIDER])),
                service("web", &[web.address]),
                service("auth", &[auth.address]),
                service("idp", &[idp.address]),
                route_to("shop", &[HOST], "web"),
                route_to("idp", &[PROVIDER], "idp"),
            ]),
        );
        folder.write(&format!("{policy}.wasm"), std::fs::read(guests::shipped(policy)).unwrap());
        folder.write("example.yaml", example);
        let gateway = Gateway::start(&folder).await;
        let (_, problems) = gateway.admin_get("/problems").await.unwrap();
        assert!(!problems.contains("SLUICE-P"), "{policy}: the example has problems: {problems}");
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("ca.pem"), authority.pem()).unwrap();
        std::os::unix::fs::symlink(gateway.access_log_file(), place.path().join("access.log")).unwrap();
        let prelude = format!(
            "curl() {{ command curl -sS --noproxy '*' --cacert ca.pem --connect-to {HOST}:80:127.0.0.1:{http} \
             --connect-to {HOST}:443:127.0.0.1:{https} --connect-to {PROVIDER}:443:127.0.0.1:{https} \"$@\"; }}\n\
             TOKEN={} EXPIRED={}\n",
            token("es256"),
            token("expired")
        );
        let stage = Stage { _gateway: gateway, place, prelude, _backends: [web, auth, idp], _folder: folder };
        stage.is_guarded(policy).await;
        stage
    }

    /// The gateway serves other routes before a plugin that takes long to compile. Asked from an address that no page has, so
    /// that nothing that is counted by client is used up.
    async fn is_guarded(&self, policy: &str) {
        let ask = "curl http://shop.example/ -H 'x-forwarded-for: 192.0.2.77'";
        wait::until_within(COMPILED, &format!("the plugin {policy} to be compiled"), || async {
            (!self.run(ask).await.0.contains("no version that is compiled")).then_some(())
        })
        .await;
    }

    async fn run(&self, command: &str) -> (String, String) {
        let script = format!("{}{command}", self.prelude);
        let mut bash = tokio::process::Command::new("bash");
        let output = bash.args(["-c", &script]).current_dir(self.place.path()).output().await.unwrap();
        let [printed, said] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (printed.replace('\r', ""), said)
    }

    /// What differs from what the page shows; none where nothing does.
    async fn play(&self, policy: &str, command: &str, shown: &str) -> Option<String> {
        if command.starts_with("tail ") {
            // A line of the access log is written after its answer was sent.
            let there = async || console::fits(shown, &self.run(command).await.0).then_some(());
            let waited = wait::until(command, || async { there().await });
            if tokio::time::timeout(wait::DEADLINE / 2, waited).await.is_ok() {
                return None;
            }
        }
        let (printed, said) = self.run(command).await;
        let differs = format!("{policy}\n$ {command}\nshown:\n{shown}\nprinted:\n{printed}\n{said}");
        (!console::fits(shown, &printed)).then_some(differs)
    }
}

#[tokio::test]
async fn the_example_of_each_policys_page_does_what_the_page_says() {
    let policies = guests::policies();
    assert!(policies.len() >= 16, "{policies:?}");
    let mut differences = Vec::new();
    for policy in policies {
        let page = readme(&policy);
        let commands = console::commands(&page);
        assert!(commands.len() >= 2, "{policy}: the page shows only {} commands", commands.len());
        let stage = Stage::set(&policy, &example(&page, &policy)).await;
        for (command, shown) in commands {
            differences.extend(stage.play(&policy, &command, &shown).await);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
