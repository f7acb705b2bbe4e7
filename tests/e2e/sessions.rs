//! Session persistence (GEP-1619): a client that brings back its cookie or header comes to the endpoint that it was at.

use crate::cluster::{class, gateway, route, service as service_of_cluster, slice as slice_of_cluster};
use crate::shop::{HOST, Shop, backend_of};
use serde_json::json;
use sluice_tests::gateway::Options;
use sluice_tests::objects::{http_route, join, route_to, service, slice};
use sluice_tests::raw::{self, Response};
use sluice_tests::{ApiServer, Backend, Folder, ports, wait};

/// Requests that would hardly all go one way by chance: a one in 2^20 for two endpoints.
const MANY: usize = 20;

/// Three endpoints of one Service, under a rule with this `sessionPersistence`.
struct Sessions {
    shop: Shop,
    endpoints: Vec<Backend>,
}

const NAMES: [&str; 3] = ["one", "two", "three"];

fn rule(persistence: &str) -> String {
    format!("  - backendRefs: [{{name: web, port: 80}}]\n    sessionPersistence: {{{persistence}}}\n")
}

impl Sessions {
    async fn start(persistence: &str) -> Sessions {
        let mut endpoints = Vec::new();
        for name in NAMES {
            endpoints.push(Backend::echo(name).await);
        }
        let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
        let objects = join([http_route("web", &[HOST], &rule(persistence)), service("web", &addresses)]);
        Sessions { shop: Shop::start(&[], &objects).await, endpoints }
    }

    /// Writes whether an endpoint is ready.
    fn set_ready(&self, name: &str, ready: bool) {
        let n = NAMES.iter().position(|other| *other == name).unwrap();
        let slice = slice("web", n, self.endpoints[n].address, &format!("ready: {ready}"));
        self.rewrite(|documents| documents[n + 2] = slice);
    }

    fn rewrite(&self, change: impl FnOnce(&mut Vec<String>)) {
        let path = self.shop.folder.path().join("more.yaml");
        let mut documents: Vec<_> = std::fs::read_to_string(path).unwrap().split("---\n").map(str::to_owned).collect();
        change(&mut documents);
        self.shop.folder.write("more.yaml", join(documents));
    }

    async fn with_cookie(&self, cookie: &str) -> Response {
        self.shop.get_with("/", &format!("Cookie: theme=dark; {cookie}\r\n")).await
    }
}

/// `name=value` of the cookie that an answer sets, and its attributes.
fn cookie_of(answer: &Response) -> Option<(String, Vec<String>)> {
    let text = answer.header("set-cookie")?;
    let mut parts = text.split("; ").map(str::to_owned);
    Some((parts.next().unwrap(), parts.collect()))
}

#[tokio::test]
async fn a_client_with_its_cookie_stays_where_it_was_until_that_endpoint_is_gone() {
    let sessions = Sessions::start("sessionName: basket").await;
    let first = sessions.shop.get("/").await;
    let (cookie, attributes) = cookie_of(&first).expect("a cookie");
    assert!(cookie.starts_with("basket="), "{cookie}");
    assert_eq!(attributes, ["Path=/", "HttpOnly", "SameSite=Strict"], "and not Secure, over clear text");
    let home = backend_of(&first);
    for _ in 0..MANY {
        let answer = sessions.with_cookie(&cookie).await;
        assert_eq!((backend_of(&answer), answer.header("set-cookie")), (home.clone(), None));
    }
    // Without it requests are balanced, and each begins a session of its own.
    let mut others = std::collections::BTreeSet::new();
    for _ in 0..MANY {
        let answer = sessions.shop.get("/").await;
        assert!(cookie_of(&answer).is_some());
        others.insert(backend_of(&answer));
    }
    assert_eq!(others.len(), NAMES.len(), "{others:?}");

    sessions.set_ready(&home, false);
    let moved = wait::until("the session to move", || async {
        let answer = sessions.with_cookie(&cookie).await;
        (backend_of(&answer) != home).then_some(answer)
    })
    .await;
    let (new_cookie, _) = cookie_of(&moved).expect("another cookie");
    assert_ne!(new_cookie, cookie);
    let new_home = backend_of(&moved);
    for _ in 0..MANY {
        assert_eq!(backend_of(&sessions.with_cookie(&new_cookie).await), new_home);
    }
    // The old one means its endpoint still, once that is back.
    sessions.set_ready(&home, true);
    wait::until("the first endpoint", || async {
        (backend_of(&sessions.with_cookie(&cookie).await) == home).then_some(())
    })
    .await;
    let counted = |result: &'static str| {
        let gateway = &sessions.shop.gateway;
        async move { gateway.metric("sluice_sessions_total", &[&format!("result=\"{result}\"")]).await }
    };
    assert!(counted("kept").await >= 2.0 * MANY as f64 && counted("begun").await >= MANY as f64);
    assert!(counted("moved").await >= 1.0);
}

#[tokio::test]
async fn a_header_carries_a_session_as_a_cookie_does() {
    let sessions = Sessions::start("type: Header, sessionName: X-Basket").await;
    let first = sessions.shop.get("/").await;
    assert_eq!(first.header("set-cookie"), None);
    let token = first.header("x-basket").expect("a token");
    for _ in 0..MANY {
        let answer = sessions.shop.get_with("/", &format!("x-basket: {token}\r\n")).await;
        assert_eq!((backend_of(&answer), answer.header("x-basket")), (backend_of(&first), None));
    }
}

#[tokio::test]
async fn a_permanent_cookie_is_kept_as_long_as_the_session_lasts_and_over_tls_it_is_secure() {
    let sessions = Sessions::start("absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}").await;
    let client = sessions.shop.authority.client(&["http/1.1"]);
    let mut client = raw::Client::connect_tls(sessions.shop.https, HOST, client).await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    let (cookie, attributes) = cookie_of(&client.response().await.unwrap()).expect("a cookie");
    assert!(cookie.starts_with("sluice-session-"), "a name was made for it: {cookie}");
    assert_eq!(attributes, ["Path=/", "Max-Age=3600", "HttpOnly", "SameSite=Strict", "Secure"]);
    // What was begun over TLS goes on in clear text: the rule is the same one.
    let answer = sessions.with_cookie(&cookie).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None));
}

#[tokio::test]
async fn sessions_end_by_their_timeouts() {
    for persistence in ["absoluteTimeout: 1s", "idleTimeout: 1s"] {
        let sessions = Sessions::start(persistence).await;
        let (cookie, _) = cookie_of(&sessions.shop.get("/").await).expect("a cookie");
        wait::until("the end of the session", || async {
            sessions.with_cookie(&cookie).await;
            let expired = ["result=\"expired\""];
            (sessions.shop.gateway.metric("sluice_sessions_total", &expired).await > 0.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_idle_session_is_kept_alive_by_its_requests() {
    let sessions = Sessions::start("idleTimeout: 1h").await;
    let first = sessions.shop.get("/").await;
    let (cookie, _) = cookie_of(&first).expect("a cookie");
    let renewed = wait::until("a renewed cookie", || async { cookie_of(&sessions.with_cookie(&cookie).await) }).await;
    assert_ne!(renewed.0, cookie);
    assert_eq!(backend_of(&sessions.with_cookie(&renewed.0).await), backend_of(&first));
}

#[tokio::test]
async fn what_a_client_makes_up_or_brings_from_another_rule_is_no_session() {
    let persist = "    sessionPersistence: {sessionName: same}\n";
    let rule = |path: &str| {
        format!("  - matches: [{{path: {{value: {path}}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n{persist}")
    };
    let (one, two) = (Backend::echo("one").await, Backend::echo("two").await);
    let objects = join([
        http_route("web", &[HOST], &[rule("/a"), rule("/b")].concat()),
        service("web", &[one.address, two.address]),
    ]);
    let shop = Shop::start(&[], &objects).await;
    let (of_a, _) = cookie_of(&shop.get("/a").await).expect("a cookie");
    let forged = format!("{}{}", &of_a[..of_a.len() - 4], "AAAA");
    let addressed = format!("same={}", one.address);
    for (path, cookie) in [("/b", &*of_a), ("/a", &*forged), ("/a", &*addressed), ("/a", "same="), ("/a", "same")] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..MANY {
            let answer = shop.get_with(path, &format!("Cookie: {cookie}\r\n")).await;
            assert!(cookie_of(&answer).is_some(), "{path} {cookie}: another session begins");
            seen.insert(backend_of(&answer));
        }
        assert_eq!(seen.len(), 2, "{path} {cookie}: it leads nowhere in particular");
    }
    // Of several cookies of that name the one that is this rule's counts.
    let mine = shop.get_with("/a", &format!("Cookie: same=x; {of_a}\r\n")).await;
    assert_eq!(mine.header("set-cookie"), None);
}

#[tokio::test]
async fn a_session_outlasts_the_weight_of_its_backend() {
    let rule = |old: u32, new: u32| {
        let rules = format!(
            "  - backendRefs: [{{name: old, port: 80, weight: {old}}}, {{name: new, port: 80, weight: {new}}}]\n    sessionPersistence: {{sessionName: s}}\n"
        );
        http_route("split", &[HOST], &rules)
    };
    let shop = Shop::start(&["old", "new"], &rule(1, 0)).await;
    let (cookie, _) = cookie_of(&shop.get("/").await).expect("a cookie");
    shop.folder.write("more.yaml", rule(0, 1));
    shop.until("the new weights", "/", |answer| backend_of(answer) == "new").await;
    for _ in 0..MANY {
        assert_eq!(backend_of(&shop.get_with("/", &format!("Cookie: {cookie}\r\n")).await), "old");
        assert_eq!(backend_of(&shop.get("/").await), "new");
    }
}

/// Sends the cookie many times; each answer is of `home`.
async fn all_come_to(home: &str, port: u16, cookie: &str) {
    for _ in 0..MANY {
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n");
        assert_eq!(backend_of(&raw::exchange(port, request).await.unwrap()), home);
    }
}

#[tokio::test]
async fn a_restart_goes_on_with_the_sessions() {
    let Sessions { shop, endpoints: _endpoints } = Sessions::start("sessionName: s").await;
    let first = shop.get("/").await;
    let (cookie, _) = cookie_of(&first).expect("a cookie");
    assert!(shop.gateway.stop().await.success());
    let _again = Options::new(&shop.folder).label("again").start().await;
    all_come_to(&backend_of(&first), shop.http, &cookie).await;
}

#[tokio::test]
async fn replicas_with_one_session_key_keep_each_others_sessions() {
    let Sessions { shop, endpoints: _endpoints } = Sessions::start("sessionName: s").await;
    let other = Folder::new();
    other.copy_from(&shop.folder.path());
    let key = shop.folder.state().join("shared-key");
    std::fs::write(&key, "a secret of more than thirty-two bytes\n").unwrap();
    let with_key = |folder: &Folder, label| {
        Options::new(folder).label(label).argument("--session-key").argument(key.display().to_string())
    };
    assert!(shop.gateway.stop().await.success());
    let one = with_key(&shop.folder, "one").start().await;
    let first = raw::get(shop.http, HOST, "/").await.unwrap();
    let (cookie, _) = cookie_of(&first).expect("a cookie");
    // One host has each port once, so that the other comes when the first has gone.
    assert!(one.stop().await.success());
    let _two = with_key(&other, "two").start().await;
    all_come_to(&backend_of(&first), shop.http, &cookie).await;
}

#[tokio::test]
async fn replicas_in_a_cluster_keep_each_others_sessions_by_what_they_read() {
    let server = ApiServer::start().await;
    let (first, second) = (ports::free(), ports::free());
    let mut shared = gateway(first);
    let other = json!({"name": "other", "port": second, "protocol": "HTTP"});
    shared["spec"]["listeners"].as_array_mut().unwrap().push(other);
    let mut all = route("web");
    all["spec"]["rules"][0]["sessionPersistence"] = json!({"sessionName": "s"});
    for object in [class(), shared, service_of_cluster("web"), all] {
        server.apply(object);
    }
    let mut endpoints = Vec::new();
    for name in NAMES {
        let endpoint = Backend::echo(name).await;
        let mut slice = slice_of_cluster("web", endpoint.address);
        slice["metadata"]["name"] = json!(format!("web-{name}"));
        server.apply(slice);
        endpoints.push(endpoint);
    }
    let (one, two) = (Folder::new(), Folder::new());
    let before = Options::from_cluster(&one, &server).start().await;
    let answer = raw::get(first, HOST, "/").await.unwrap();
    let (cookie, _) = cookie_of(&answer).expect("a cookie");
    // The ports are free for the other once the first is gone; nothing but the API server is between them.
    assert!(before.stop().await.success());
    let _after = Options::from_cluster(&two, &server).label("second").start().await;
    all_come_to(&backend_of(&answer), second, &cookie).await;
}

#[tokio::test]
async fn a_policy_of_a_service_keeps_sessions_at_it_for_every_route_of_its_own() {
    let (one, two) = (Backend::echo("one").await, Backend::echo("two").await);
    let policy = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: sticky, namespace: default}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: web}]\n  sessionPersistence: {sessionName: s}\n";
    let rule = |path: &str| {
        format!("  - matches: [{{path: {{value: {path}}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n")
    };
    let objects = join([
        http_route("web", &[HOST], &[rule("/a"), rule("/b")].concat()),
        service("web", &[one.address, two.address]),
        policy.to_owned(),
    ]);
    let shop = Shop::start(&[], &objects).await;
    let first = shop.get("/a").await;
    let (cookie, _) = cookie_of(&first).expect("a cookie");
    let with_cookie = format!("Cookie: {cookie}\r\n");
    for _ in 0..MANY {
        assert_eq!(backend_of(&shop.get_with("/a", &with_cookie).await), backend_of(&first));
    }
    assert!(cookie_of(&shop.get_with("/b", &with_cookie).await).is_some(), "another rule has sessions of its own");
}

#[tokio::test]
async fn a_route_without_sessions_sets_no_cookie() {
    let shop = Shop::start(&["one"], &route_to("plain", &[HOST], "one")).await;
    assert_eq!(shop.get("/").await.header("set-cookie"), None);
}
