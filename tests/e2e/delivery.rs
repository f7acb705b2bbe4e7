//! Plugins that are fetched: from a registry and by HTTPS, with secrets and signatures, and what happens while they are not
//! to be had.

use crate::commands::{said, text};
use crate::shop::{HOST, Shop};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use rcgen::KeyPair;
use serde_json::{Value, json};
use sluice_tests::backend::{Answer, text as plain_answer};
use sluice_tests::certificate::Authority;
use sluice_tests::gateway::Options;
use sluice_tests::objects::{join, plugin_on_route, route_to};
use sluice_tests::registry::{DOCKER_FILES, Fault, OCI_FILES, Registry, WASM, WASM_TO_OCI, digest};
use sluice_tests::{Backend, Gateway, binary, guests, raw, wait};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// A gateway with a route on which the plugin `fetched` says its version.
struct Delivery {
    shop: Shop,
    registry: Registry,
}

/// The objects that stand beside the Plugin.
fn objects(source: &str, more: &str) -> String {
    let plugin = format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: Plugin\nmetadata: {{name: fetched, namespace: default}}\nspec: {{source: {source}}}\n"
    );
    join([
        route_to("shop", &[HOST], "one"),
        plugin,
        plugin_on_route("fetched", "shop", "fetched", "{}"),
        more.to_owned(),
    ])
}

/// A Secret as `kubectl create secret docker-registry` makes it.
fn pull_secret(name: &str, registry: &str, user: &str, password: &str) -> String {
    let config = json!({"auths": {registry: {"auth": STANDARD.encode(format!("{user}:{password}"))}}}).to_string();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/dockerconfigjson\ndata: {{.dockerconfigjson: {}}}\n",
        STANDARD.encode(config)
    )
}

fn key_secret(name: &str, key: &KeyPair) -> String {
    let pem = STANDARD.encode(key.public_key_pem());
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ndata: {{cosign.pub: {pem}}}\n"
    )
}

/// The module of a version, which its answers name.
fn version(version: usize) -> Vec<u8> {
    guests::versioned().with_version(version)
}

impl Delivery {
    async fn start() -> Delivery {
        Delivery { shop: Shop::start(&["one"], "").await, registry: Registry::start().await }
    }

    fn wish(&self, source: &str, more: &str) {
        self.shop.folder.write("more.yaml", objects(source, more));
    }

    fn wish_image(&self, image: &str) {
        self.wish(&format!("{{oci: {{image: \"{}\"}}}}", self.registry.image(image)), "");
    }

    async fn serves(&self, version: usize) {
        serves(self.shop.http, version).await;
    }

    /// Waits for the one problem of the Plugin; its text.
    async fn problem(&self, code: &str, words: &str) -> String {
        problem(&self.shop.gateway, code, words).await
    }

    async fn no_problem(&self) {
        wait::until("no problem", || async {
            let (_, problems) = self.shop.gateway.admin_get("/problems").await.ok()?;
            (!problems.contains("Plugin")).then_some(())
        })
        .await;
    }

    async fn fetches(&self, outcome: &str) -> f64 {
        self.shop.gateway.metric("sluice_plugin_fetches_total", &[outcome]).await
    }

    /// Waits until so many fetches were none, since the code was here.
    async fn kept(&self, times: f64) {
        wait::until(&format!("{times} times what is kept"), || async {
            (self.fetches("kept").await == times).then_some(())
        })
        .await;
    }

    /// The Plugin as `sluice get plugins` shows it.
    fn row(&self) -> Value {
        row(&self.shop.gateway)
    }
}

fn row(gateway: &Gateway) -> Value {
    let output = sluice(&["get", "plugins", "-o", "json", "--admin", &gateway.admin.to_string()]);
    let rows: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    rows[0].clone()
}

async fn serves(port: u16, version: usize) {
    let name = guests::Versioned::name(version);
    wait::until(&name, || async {
        let answer = raw::get(port, HOST, "/").await.ok()?;
        (answer.header("x-plugin-version").as_deref() == Some(&*name)).then_some(())
    })
    .await;
}

async fn problem(gateway: &Gateway, code: &str, words: &str) -> String {
    wait::until(&format!("{code}: {words}"), || async {
        let (_, problems) = gateway.admin_get("/problems").await.ok()?;
        let problems: Vec<Value> = serde_json::from_str(&problems).ok()?;
        let found = problems.iter().find(|problem| problem["code"] == code && problem["object"]["kind"] == "Plugin")?;
        let message = found["message"].as_str()?;
        message.contains(words).then(|| format!("{}: {message}", found["field"].as_str().unwrap_or_default()))
    })
    .await
}

fn sluice(arguments: &[&str]) -> Output {
    Command::new(binary::sluice())
        .args(arguments)
        .env("DOCKER_CONFIG", "/nonexistent")
        .output()
        .expect("the binary starts")
}

/// With a password on standard input.
fn sluice_with(password: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(binary::sluice())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn an_image_is_served_by_its_tag_and_by_its_digest_and_going_back_fetches_nothing() {
    let delivery = Delivery::start().await;
    let (one, two) = (version(1), version(2));
    let first = delivery.registry.put("team/versioned", "1", &[(WASM, &one)]);
    let second = delivery.registry.put("team/versioned", "2", &[(WASM, &two)]);
    delivery.wish_image("team/versioned:1");
    delivery.serves(1).await;
    let row = delivery.row();
    assert_eq!(row["digest"], digest(&one).trim_start_matches("sha256:"));
    // What the tag led to.
    assert_eq!(row["source"], format!("{}@{first}", delivery.registry.image("team/versioned:1")));
    assert_eq!(row["state"], "ready, 1 in use");

    // What a tag led to is kept for who pins it, wherever the tag leads now.
    delivery.registry.put("team/versioned", "1", &[(WASM, &two)]);
    delivery.wish_image(&format!("team/versioned@{first}"));
    delivery.kept(1.0).await;
    delivery.wish_image(&format!("team/versioned@{second}"));
    delivery.serves(2).await;
    let (asked, fetched) = (delivery.registry.asked(), delivery.fetches("fetched").await);
    assert_eq!(fetched, 2.0);

    // Back: what was there is used again.
    delivery.wish_image(&format!("team/versioned@{first}"));
    delivery.serves(1).await;
    delivery.kept(2.0).await;
    assert_eq!((delivery.registry.asked(), delivery.fetches("fetched").await), (asked, fetched));
    assert!(delivery.shop.gateway.metric("sluice_plugin_fetch_bytes_total", &[]).await > one.len() as f64);
    assert!(delivery.shop.gateway.metric("sluice_plugin_fetch_seconds_total", &[]).await > 0.0);
}

#[tokio::test]
async fn images_as_other_tools_make_them_are_served() {
    let delivery = Delivery::start().await;
    let files = |module: &[u8]| {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(module.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "./plugin.wasm", module).unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    };
    let registry = &delivery.registry;
    registry.put("wasm-to-oci", "x", &[(WASM_TO_OCI, &version(1))]);
    registry.put("envoy", "x", &[(OCI_FILES, &files(&version(2)))]);
    registry.put("istio", "x", &[(DOCKER_FILES, &files(b"what is below")), (DOCKER_FILES, &files(&version(3)))]);
    let image = registry.put("index", "one", &[(OCI_FILES, &files(&version(4)))]);
    registry.put_index("index", "x", &image);
    for (version, repository) in ["wasm-to-oci", "envoy", "istio", "index"].into_iter().enumerate() {
        delivery.wish_image(&format!("{repository}:x"));
        delivery.serves(version + 1).await;
    }
    delivery.no_problem().await;
}

#[tokio::test]
async fn a_pull_secret_opens_the_registry_and_one_that_is_corrected_is_used_at_once() {
    let delivery = Delivery::start().await;
    let registry = delivery.registry.address.to_string();
    delivery.registry.only_for("alice", "open-sesame");
    delivery.registry.put("private", "1", &[(WASM, &version(1))]);
    let source =
        format!("{{oci: {{image: \"{}\", pullSecretRef: {{name: pull}}}}}}", delivery.registry.image("private:1"));
    delivery.wish(&source, "");
    let missing = problem(&delivery.shop.gateway, "SLUICE-P205", "there is no Secret default/pull").await;
    assert!(missing.starts_with("spec.source.oci.pullSecretRef.name"), "{missing}");
    delivery.problem("SLUICE-P420", "401").await;
    delivery.wish(&source, &pull_secret("pull", "elsewhere.example", "alice", "open-sesame"));
    delivery.problem("SLUICE-P401", "says nothing of the registry").await;
    delivery.wish(&source, &pull_secret("pull", &registry, "alice", "wrong"));
    delivery.problem("SLUICE-P420", "401").await;
    assert_eq!(delivery.shop.get("/").await.status, 503, "a use without code answers by its fail mode");
    assert!(delivery.fetches("denied").await >= 1.0);
    delivery.wish(&source, &pull_secret("pull", &registry, "alice", "open-sesame"));
    delivery.serves(1).await;
    delivery.no_problem().await;
    // Passwords are in no dump and no log.
    let (_, config) = delivery.shop.gateway.admin_get("/config").await.unwrap();
    assert!(config.contains("private:1") && !config.contains("sesame"), "{config}");
    assert!(!delivery.shop.gateway.log().join("\n").contains("sesame"));
}

#[tokio::test]
async fn an_image_without_a_signature_by_the_key_is_not_served() {
    let delivery = Delivery::start().await;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let registry = &delivery.registry;
    let good = registry.put("signed", "1", &[(WASM, &version(1))]);
    let evil = registry.put("signed", "evil", &[(WASM, &version(6))]);
    let wish = |tag: &str, key: &KeyPair| {
        let image = registry.image(&format!("signed:{tag}"));
        let source = format!("{{oci: {{image: \"{image}\", publicKeyRef: {{name: signer}}}}}}");
        delivery.wish(&source, &key_secret("signer", key));
    };
    wish("1", &key);
    delivery.problem("SLUICE-P421", "has no signature").await;
    registry.sign("signed", &good, &good, &other);
    delivery.problem("SLUICE-P421", "none of the 1 signatures").await;
    registry.sign("signed", &good, &good, &key);
    // Found by the next try.
    delivery.serves(1).await;
    delivery.no_problem().await;

    // A signature of one image does not do for another, and what served goes on.
    registry.sign("signed", &evil, &good, &key);
    wish("evil", &key);
    delivery.problem("SLUICE-P421", "none of the 1 signatures").await;
    delivery.serves(1).await;
    // The same image under another key is another question; Ed25519 answers it.
    registry.sign("signed", &good, &good, &other);
    wish("1", &other);
    delivery.no_problem().await;
    delivery.serves(1).await;
    assert!(delivery.fetches("unsigned").await >= 3.0);
}

#[tokio::test]
async fn while_the_registry_is_away_the_code_before_goes_on_and_the_new_one_comes_when_it_is_back() {
    let mut delivery = Delivery::start().await;
    let first = delivery.registry.put("versioned", "1", &[(WASM, &version(1))]);
    delivery.registry.put("versioned", "2", &[(WASM, &version(2))]);
    delivery.wish_image("versioned:1");
    delivery.serves(1).await;
    delivery.registry.go_away().await;
    delivery.wish_image("versioned:2");
    delivery.problem("SLUICE-P420", "refused").await;
    let state = wait::until("a second try", || async {
        let state = delivery.row()["state"].as_str()?.to_owned();
        state.starts_with("failed, not fetched in 2 tries, again in ").then_some(state)
    })
    .await;
    assert!(state.contains("the version before goes on"), "{state}");
    delivery.serves(1).await;

    // A restart without the registry serves what was fetched before.
    delivery.wish_image(&format!("versioned@{first}"));
    delivery.no_problem().await;
    let Delivery { shop, mut registry } = delivery;
    let Shop { gateway, folder, http, .. } = shop;
    assert!(gateway.stop().await.success());
    let gateway = Options::new(&folder).label("second").start().await;
    serves(http, 1).await;
    assert_eq!(gateway.metric("sluice_plugin_fetches_total", &["kept"]).await, 1.0);

    registry.come_back().await;
    folder.write("more.yaml", objects(&format!("{{oci: {{image: \"{}\"}}}}", registry.image("versioned:2")), ""));
    serves(http, 2).await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn what_is_not_what_it_should_be_is_refused_and_disturbs_nobody() {
    let delivery = Delivery::start().await;
    let registry = &delivery.registry;
    let good = version(1);
    registry.put("good", "1", &[(WASM, &good)]);
    registry.put("text", "1", &[(WASM, b"no module")]);
    registry.put("empty", "1", &[]);
    registry.put("zstd", "1", &[("application/vnd.oci.image.layer.v1.tar+zstd", b"x")]);
    registry.put("files", "1", &[(OCI_FILES, b"no archive")]);
    registry.put_layers("huge", "1", &[(WASM, digest(b"huge"), 33 << 20)]);
    let nowhere = format!("good@{}", digest(b"another manifest"));
    for (image, code, words) in [
        ("text:1", "SLUICE-P402", "not a WebAssembly module"),
        ("empty:1", "SLUICE-P420", "no layer with a plugin"),
        ("zstd:1", "SLUICE-P420", "tar+zstd"),
        ("files:1", "SLUICE-P420", "layer can't be read"),
        ("huge:1", "SLUICE-P420", "larger than 33554432 bytes"),
        ("missing:1", "SLUICE-P420", "404"),
        (&*nowhere, "SLUICE-P420", "manifest unknown"),
    ] {
        delivery.wish_image(image);
        delivery.problem(code, words).await;
        assert_eq!(delivery.shop.get("/").await.status, 503, "{image}");
    }
    for (fault, words) in
        [(Fault::Damaged, "has the digest"), (Fault::CutShort, "has the digest"), (Fault::Status(500), "500")]
    {
        registry.fail(fault);
        delivery.wish_image("good:1");
        delivery.problem("SLUICE-P420", words).await;
        delivery.wish_image("missing:1");
        delivery.problem("SLUICE-P420", "/v2/missing/").await;
    }
    // One that says nothing at all: the route has its fail mode, and no other is kept waiting.
    registry.fail(Fault::Silent);
    let other = join([
        objects(&format!("{{oci: {{image: \"{}\"}}}}", registry.image("good:1")), ""),
        route_to("other", &["other.example"], "one"),
    ]);
    delivery.shop.folder.write("more.yaml", other);
    wait::until("the fetch to begin", || async { (delivery.row()["state"] == "fetching").then_some(()) }).await;
    assert_eq!(raw::get(delivery.shop.http, "other.example", "/").await.unwrap().status, 200);
    assert_eq!(delivery.shop.get("/").await.status, 503);
    registry.fail(None);
    delivery.wish_image("good:1");
    // The connection that hangs is given up for a change of the object.
    delivery.wish(
        &format!("{{oci: {{image: \"{}@{}\"}}}}", registry.image("good"), registry.put("good", "2", &[(WASM, &good)])),
        "",
    );
    delivery.serves(1).await;
    delivery.no_problem().await;
}

/// A web server with TLS: `/plugin.wasm`, `/moved` that leads to it, and `/down` that leads to plain HTTP.
async fn web_server(authority: &Authority, module: Vec<u8>) -> Backend {
    let module = Arc::new(module);
    let redirect = |to: &'static str| {
        let mut answer = plain_answer(StatusCode::FOUND, "");
        answer.headers_mut().insert("location", to.parse().unwrap());
        answer
    };
    let answer = move |path: &str| -> Answer {
        match path {
            "/plugin.wasm" => {
                use http_body_util::{BodyExt, Full};
                let body = Full::new(bytes::Bytes::copy_from_slice(&module)).map_err(|never| match never {}).boxed();
                http::Response::new(body)
            }
            "/moved" => redirect("/plugin.wasm"),
            "/down" => redirect("http://plugins.example/plugin.wasm"),
            "/around" => redirect("/around"),
            _ => plain_answer(StatusCode::NOT_FOUND, ""),
        }
    };
    let handler: sluice_tests::backend::Handler = Arc::new(move |request| {
        let answer = answer(request.uri().path());
        Box::pin(async move { answer })
    });
    Backend::with_tls(&authority.leaf(&["localhost"]), handler).await
}

#[tokio::test]
async fn a_file_of_a_web_server_is_held_to_its_digest_and_redirects_to_https() {
    let mut delivery = Delivery::start().await;
    let server = web_server(&delivery.shop.authority, version(1)).await;
    // The gateway trusts the test's authority alone.
    let roots = delivery.shop.folder.state().join("roots.pem");
    std::fs::write(&roots, delivery.shop.authority.pem()).unwrap();
    let options = Options::new(&delivery.shop.folder).label("trusting").environment("SSL_CERT_FILE", &roots);
    let former = std::mem::replace(&mut delivery.shop.gateway, options.without_waiting().start().await);
    assert!(former.stop().await.success());
    let port = server.address.port();
    let sha256 = digest(&version(1)).trim_start_matches("sha256:").to_owned();
    let wish =
        |url: &str, sha256: &str| delivery.wish(&format!("{{https: {{url: \"{url}\", sha256: \"{sha256}\"}}}}"), "");
    let at = |path: &str| format!("https://localhost:{port}{path}");
    for (url, words) in [
        (at("/missing"), "404"),
        (at("/down"), "plain HTTP"),
        (at("/around"), "more than 5 redirects"),
        ("http://plugins.example/plugin.wasm".to_owned(), "plain HTTP"),
        ("https://169.254.169.254/latest/meta-data".to_owned(), "link-local"),
    ] {
        wish(&url, &sha256);
        delivery.problem("SLUICE-P420", words).await;
    }
    // What may never be asked is not asked again.
    assert!(delivery.row()["state"].as_str().unwrap().contains("not tried again"), "{}", delivery.row());
    wish(&at("/plugin.wasm"), &sha256.replace('a', "b"));
    delivery.problem("SLUICE-P420", "has the digest").await;
    wish(&at("/moved"), &sha256);
    delivery.serves(1).await;
    delivery.no_problem().await;
    wish("plugin.wasm", &sha256);
    delivery.problem("SLUICE-P401", "only https is fetched").await;
    delivery.serves(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn push_and_pull_give_back_the_same_plugin_and_name_its_digest() {
    let registry = Registry::start().await;
    registry.only_for("alice", "open-sesame");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("plugin.wasm"), version(1)).unwrap();
    std::fs::write(path("plugin.txt"), "no module").unwrap();
    let image = registry.image("team/pushed:1.0");
    let alice = ["--username", "alice", "--password-stdin"];
    let push = |file: &str, password: &str| {
        sluice_with(password, &[&["plugin", "push", &path(file), &image][..], &alice].concat())
    };

    let pushed = push("plugin.wasm", "open-sesame\n");
    assert!(pushed.status.success(), "{}", said(&pushed));
    let named = text(&pushed).trim().to_owned();
    assert!(named.starts_with(&format!("{image}@sha256:")), "{named}");
    // The same plugin is the same image.
    assert_eq!(text(&push("plugin.wasm", "open-sesame")), text(&pushed));

    let wrong = push("plugin.wasm", "wrong");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("401") && !said(&wrong).contains("wrong"), "{}", said(&wrong));
    let odd = push("plugin.txt", "open-sesame");
    assert!(said(&odd).contains("no WebAssembly module"), "{}", said(&odd));

    // By the Docker client's configuration.
    let config = json!({"auths": {registry.address.to_string(): {"auth": STANDARD.encode("alice:open-sesame")}}});
    std::fs::write(path("config.json"), config.to_string()).unwrap();
    let pull = |image: &str, docker: &str| {
        let arguments = ["plugin", "pull", image, "-o", &path("pulled.wasm")];
        Command::new(binary::sluice()).args(arguments).env("DOCKER_CONFIG", docker).output().unwrap()
    };
    let pulled = pull(&named, &path(""));
    assert!(pulled.status.success(), "{}", said(&pulled));
    assert_eq!(text(&pulled).trim(), named);
    assert_eq!(std::fs::read(path("pulled.wasm")).unwrap(), version(1));
    assert_eq!(pull(&image, "/nonexistent").status.code(), Some(1));
    let unknown = pull(&registry.image("team/pushed:2.0"), &path(""));
    assert!(said(&unknown).contains("manifest unknown"), "{}", said(&unknown));
    assert_eq!(sluice(&["plugin", "pull", "pushed"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_fetches_when_it_is_told_to() {
    let registry = Registry::start().await;
    registry.put("good", "1", &[(WASM, &version(1))]);
    let folder = sluice_tests::Folder::new();
    let check = |image: &str, more: &[&str]| {
        folder.write("more.yaml", objects(&format!("{{oci: {{image: \"{}\"}}}}", registry.image(image)), ""));
        let path = folder.path().display().to_string();
        text(&sluice(&[&["check", &path][..], more].concat()))
    };
    let (offline, good, missing) =
        (check("missing:1", &[]), check("good:1", &["--fetch"]), check("missing:1", &["--fetch"]));
    assert!(offline.contains("1 plugin not looked at") && !offline.contains("P420"), "{offline}");
    assert!(!good.contains("not looked at") && !good.contains("P4"), "{good}");
    assert!(missing.contains("SLUICE-P420") && missing.contains("404"), "{missing}");
}

/// The registry that Debian packages, as a real peer. Ignored: not every machine has it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Debian package docker-registry"]
async fn a_real_registry_takes_and_gives_images() {
    let folder = tempfile::tempdir().unwrap();
    let port = sluice_tests::ports::free();
    let config = folder.path().join("config.yml");
    let storage = folder.path().join("storage");
    let text_of = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
        storage.display()
    );
    std::fs::write(&config, text_of).unwrap();
    let mut server = tokio::process::Command::new("docker-registry");
    let mut server = server.arg("serve").arg(&config).kill_on_drop(true).spawn().expect("docker-registry is installed");
    wait::until("the registry", || async { raw::get(port, "localhost", "/v2/").await.ok() }).await;
    let module = folder.path().join("plugin.wasm");
    std::fs::write(&module, version(3)).unwrap();
    let pushed = sluice(&["plugin", "push", module.to_str().unwrap(), &format!("localhost:{port}/team/plugin:3")]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let shop = Shop::start(&["one"], &objects(&format!("{{oci: {{image: \"{}\"}}}}", text(&pushed).trim()), "")).await;
    serves(shop.http, 3).await;
    server.kill().await.unwrap();
}
