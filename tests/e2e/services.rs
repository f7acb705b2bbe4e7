//! Services: stable names in front of endpoints that come, go and fail.

use crate::shop::{HOST, Shop, backend_of};
use futures::{SinkExt, StreamExt};
use sluice_tests::backend::echo_as;
use sluice_tests::certificate::Authority;
use sluice_tests::objects::{backend_policy, join, route_to, service, service_speaking, slice};
use sluice_tests::{Backend, ports, raw, wait};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio_tungstenite::tungstenite::Message;

fn unused() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free()))
}

/// How many of `count` requests each backend answered.
async fn shares(shop: &Shop, count: usize, lines: impl Fn(usize) -> String) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for n in 0..count {
        *shares.entry(backend_of(&shop.get_with("/", &lines(n)).await)).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn requests_go_round_the_ready_endpoints_alone() {
    let (one, two, gone) = (Backend::echo("one").await, Backend::echo("two").await, Backend::echo("gone").await);
    let shop = Shop::start(
        &[],
        &join([
            route_to("all", &[HOST], "web"),
            service("web", &[one.address, two.address]),
            slice("web", 2, gone.address, "ready: false, serving: false, terminating: false"),
        ]),
    )
    .await;
    let shares = shares(&shop, 40, |_| String::new()).await;
    assert_eq!((shares["one"], shares["two"]), (20, 20));
    assert_eq!(gone.count(), 0);
}

#[tokio::test]
async fn a_terminating_endpoint_gets_nothing_new_unless_nothing_else_is_left() {
    let (stays, leaves) = (Backend::echo("stays").await, Backend::echo("leaves").await);
    let leaving = slice("web", 1, leaves.address, "ready: false, serving: true, terminating: true");
    let shop =
        Shop::start(&[], &join([route_to("all", &[HOST], "web"), service("web", &[stays.address]), leaving.clone()]))
            .await;
    assert_eq!(shares(&shop, 10, |_| String::new()).await, BTreeMap::from([("stays".to_owned(), 10)]));
    shop.folder.write("more.yaml", join([route_to("all", &[HOST], "web"), service("web", &[]), leaving]));
    shop.until("the last endpoint", "/", |a| a.status == 200 && a.text().contains("leaves")).await;
}

/// Endpoints in two zones, each meant for its own.
fn in_zones(a: SocketAddr, b: SocketAddr) -> String {
    let on = |n: usize, at: SocketAddr, zone: &str| {
        let place =
            format!("nodeName: node-{zone}, zone: {zone}, hints: {{forZones: [{{name: {zone}}}]}}, conditions:");
        slice("web", n, at, "ready: true").replace("conditions:", &place)
    };
    join([route_to("all", &[HOST], "web"), service("web", &[]), on(0, a, "a"), on(1, b, "b")])
}

#[tokio::test]
async fn endpoints_that_are_meant_for_the_gateways_zone_get_its_requests() {
    let (a, b) = (Backend::echo("a").await, Backend::echo("b").await);
    let objects = in_zones(a.address, b.address);
    let all_to = |name: &str| BTreeMap::from([(name.to_owned(), 20)]);
    // The zone is told, or is what an endpoint on the same node tells.
    let told = Shop::start_as(&[], &objects, |options| options.environment("SLUICE_ZONE", "b")).await;
    assert_eq!(shares(&told, 20, |_| String::new()).await, all_to("b"));
    let shop = Shop::start_as(&[], &objects, |options| options.argument("--node").argument("node-a")).await;
    assert_eq!(shares(&shop, 20, |_| String::new()).await, all_to("a"));
    let url = format!("/explain?output=text&method=GET&url=http://{HOST}:{}/", shop.http);
    let (_, explained) = shop.gateway.admin_get(&url).await.unwrap();
    assert!(explained.contains(&format!("{} ready, zone a", a.address)), "{explained}");
    assert!(explained.contains(&format!("{} ready, meant for others, zone b", b.address)), "{explained}");
    let (_, page) = shop.gateway.admin_get("/").await.unwrap();
    assert!(page.contains("ready, meant for others"), "{page}");

    // Where one of them has no hint, hints say nothing.
    shop.folder.write("more.yaml", objects.replace("hints: {forZones: [{name: b}]}, ", ""));
    shop.until("the other zone", "/", |answer| answer.status == 200 && backend_of(answer) == "b").await;
    assert_eq!(shares(&shop, 20, |_| String::new()).await.len(), 2);
    shop.folder.write("more.yaml", &objects);
    wait::until("the zone alone", || async {
        let asked = shares(&shop, 6, |_| String::new()).await;
        (asked.len() == 1).then_some(())
    })
    .await;

    // Nobody in the zone answers: no request is lost, and after some the endpoint is left alone.
    a.stop().await;
    assert_eq!(shares(&shop, 20, |_| String::new()).await, all_to("b"));
}

/// Slices of both families with one pod each.
fn pod_of_both_families(pod: &str, n: usize, v4: SocketAddr, v6: SocketAddr) -> String {
    let of_pod = |n: usize, at: SocketAddr| {
        let target = format!("targetRef: {{kind: Pod, name: {pod}, uid: uid-of-{pod}}}, conditions:");
        slice("web", n, at, "ready: true").replace("conditions:", &target)
    };
    join([of_pod(2 * n, v4), of_pod(2 * n + 1, v6)])
}

#[tokio::test]
async fn a_pod_with_addresses_of_both_families_is_one_endpoint_that_is_reached_by_either() {
    let (a4, a6) = (Backend::echo("a4").await, Backend::echo_ipv6("a6").await);
    let (b4, b6) = (Backend::echo("b4").await, Backend::echo_ipv6("b6").await);
    let objects = |families: &str| {
        let service = service("web", &[]).replace("spec:\n", &format!("spec:\n  ipFamilies: {families}\n"));
        let pods = [
            pod_of_both_families("a", 0, a4.address, a6.address),
            pod_of_both_families("b", 1, b4.address, b6.address),
        ];
        join([route_to("all", &[HOST], "web"), service].into_iter().chain(pods))
    };
    let shop = Shop::start(&[], &objects("[IPv6, IPv4]")).await;
    let even = |names: [&str; 2]| BTreeMap::from(names.map(|name| (name.to_owned(), 10)));
    assert_eq!(shares(&shop, 20, |_| String::new()).await, even(["a6", "b6"]));
    shop.folder.write("more.yaml", objects("[IPv4, IPv6]"));
    shop.until("IPv4", "/", |answer| answer.status == 200 && backend_of(answer).ends_with('4')).await;
    assert_eq!(shares(&shop, 20, |_| String::new()).await, even(["a4", "b4"]));
    let url = format!("/explain?output=text&method=GET&url=http://{HOST}:{}/", shop.http);
    let (_, explained) = shop.gateway.admin_get(&url).await.unwrap();
    assert!(explained.contains(&format!("{} (or {}) ready", a4.address, a6.address)), "{explained}");

    // It keeps its share where its first address does not answer.
    a4.stop().await;
    let asked = shares(&shop, 20, |_| String::new()).await;
    assert!(asked["a6"] >= 9 && asked["b4"] >= 9 && asked.len() == 2, "{asked:?}");
}

#[tokio::test]
async fn a_connection_that_fails_is_tried_on_another_endpoint_whatever_the_method() {
    let works = Backend::echo("works").await;
    let shop =
        Shop::start(&[], &join([route_to("all", &[HOST], "web"), service("web", &[unused(), works.address])])).await;
    for _ in 0..10 {
        let answer = shop.send("POST", "/", HOST, "Content-Length: 0\r\n").await;
        assert_eq!(backend_of(&answer), "works");
    }
    assert_eq!(works.count(), 10, "a request reached the backend twice");
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_ejected() {
    let works = Backend::echo("works").await;
    let broken = unused();
    let shop = Shop::start(
        &[],
        &join([
            route_to("all", &[HOST], "web"),
            service("web", &[broken, works.address]),
            backend_policy("web", "outlierDetection: {consecutiveFailures: 3, baseEjection: 1h, maxEjection: 1h}"),
        ]),
    )
    .await;
    for _ in 0..20 {
        assert_eq!(shop.get("/").await.status, 200);
    }
    let (_, page) = shop.gateway.admin_get("/").await.unwrap();
    assert!(page.contains("ejected"), "the admin page does not show the ejection:\n{page}");
}

#[tokio::test]
async fn an_ejected_endpoint_is_tried_again_when_its_time_is_over() {
    let works = Backend::echo("works").await;
    let late = unused();
    let shop = Shop::start(
        &[],
        &join([
            route_to("all", &[HOST], "web"),
            service("web", &[late, works.address]),
            backend_policy("web", "outlierDetection: {consecutiveFailures: 1, baseEjection: 2s, maxEjection: 2s}"),
        ]),
    )
    .await;
    for _ in 0..4 {
        assert_eq!(backend_of(&shop.get("/").await), "works");
    }
    let (_, page) = shop.gateway.admin_get("/").await.unwrap();
    assert!(page.contains("ejected"), "{page}");
    let late = Backend::on_port(late.port(), echo_as("late")).await;
    wait::until("its share of the requests", || async {
        let shares = shares(&shop, 4, |_| String::new()).await;
        (shares.get("late") == Some(&2)).then_some(())
    })
    .await;
    let (_, page) = shop.gateway.admin_get("/").await.unwrap();
    assert!(!page.contains("ejected"), "{page}");
    assert!(late.count() >= 2);
}

#[tokio::test]
async fn an_endpoint_that_fails_its_health_check_is_taken_out_and_comes_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let healthy = Arc::new(AtomicBool::new(true));
    let state = healthy.clone();
    let patient = Backend::with(Arc::new(move |request| {
        let state = state.clone();
        Box::pin(async move {
            let ok = request.uri().path() != "/health" || state.load(Ordering::Relaxed);
            sluice_tests::backend::text(if ok { 200 } else { 500 }.try_into().unwrap(), "{\"backend\": \"patient\"}")
        })
    }))
    .await;
    let spare = Backend::echo("spare").await;
    let shop = Shop::start(
        &[],
        &join([
            route_to("all", &[HOST], "web"),
            service("web", &[patient.address, spare.address]),
            backend_policy(
                "web",
                "healthCheck: {path: /health, interval: 100ms, timeout: 1s, unhealthy: 2, healthy: 1}",
            ),
        ]),
    )
    .await;
    let both = || async {
        let shares = shares(&shop, 4, |_| String::new()).await;
        (shares.len() == 2).then_some(())
    };
    wait::until("both endpoints", both).await;
    healthy.store(false, Ordering::Relaxed);
    wait::until("the sick endpoint to be left out", || async {
        let shares = shares(&shop, 6, |_| String::new()).await;
        (shares.get("spare") == Some(&6)).then_some(())
    })
    .await;
    healthy.store(true, Ordering::Relaxed);
    wait::until("it to come back", both).await;
}

#[tokio::test]
async fn a_consistent_hash_sends_one_key_to_one_endpoint() {
    let backends = [Backend::echo("a").await, Backend::echo("b").await, Backend::echo("c").await];
    let addresses: Vec<_> = backends.iter().map(|b| b.address).collect();
    let shop = Shop::start(
        &[],
        &join([
            route_to("all", &[HOST], "web"),
            service("web", &addresses),
            backend_policy("web", "loadBalancer: {type: ConsistentHash, consistentHash: {header: X-User}}"),
        ]),
    )
    .await;
    let mut used = std::collections::BTreeSet::new();
    for user in 0..30 {
        let shares = shares(&shop, 3, |_| format!("X-User: {user}\r\n")).await;
        assert_eq!(shares.len(), 1, "user {user} went to {shares:?}");
        used.extend(shares.into_keys());
    }
    assert_eq!(used.len(), 3, "30 users used {used:?} alone");
}

#[tokio::test]
async fn a_consistent_hash_leaves_the_keys_of_endpoints_that_stay_where_they_are() {
    const USERS: usize = 60;
    let backends =
        [Backend::echo("a").await, Backend::echo("b").await, Backend::echo("c").await, Backend::echo("d").await];
    let objects = |backends: &[Backend]| {
        let addresses: Vec<_> = backends.iter().map(|b| b.address).collect();
        join([
            route_to("all", &[HOST], "web"),
            service("web", &addresses),
            backend_policy("web", "loadBalancer: {type: ConsistentHash, consistentHash: {header: X-User}}"),
        ])
    };
    let shop = Shop::start(&[], &objects(&backends)).await;
    let homes = async || {
        let mut homes = Vec::new();
        for user in 0..USERS {
            homes.push(backend_of(&shop.get_with("/", &format!("X-User: {user}\r\n")).await));
        }
        homes
    };
    let before = homes().await;
    let of_d = before.iter().filter(|home| *home == "d").count();
    assert!(of_d > 0, "{before:?}");
    shop.folder.write("more.yaml", objects(&backends[..3]));
    wait::until("the endpoint to be left out", || async {
        let (_, page) = shop.gateway.admin_get("/").await.ok()?;
        (!page.contains(&backends[3].address.to_string())).then_some(())
    })
    .await;
    let after = homes().await;
    assert!(after.iter().all(|home| home != "d"), "{after:?}");
    let moved = before.iter().zip(&after).filter(|(before, after)| *before != "d" && before != after).count();
    // By the remainder of a division three quarters of them would go elsewhere.
    assert!(moved < USERS / 4, "{moved} of {USERS} users moved from endpoints that stayed");
}

#[tokio::test]
async fn least_request_avoids_the_endpoint_that_is_busy() {
    use std::sync::Arc;
    use std::time::Duration;
    let slow = Backend::with(Arc::new(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            sluice_tests::backend::text(http::StatusCode::OK, "slow")
        })
    }))
    .await;
    let quick = Backend::echo("quick").await;
    let shop = Shop::start(
        &[],
        &join([
            route_to("all", &[HOST], "web"),
            service("web", &[slow.address, quick.address]),
            backend_policy("web", "loadBalancer: {type: LeastRequest}"),
        ]),
    )
    .await;
    // All of them are held open, so that those at the slow endpoint stay in flight.
    let mut held = Vec::new();
    for n in 1..=100 {
        let mut client = raw::Client::connect(shop.http).await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
        held.push(client);
        wait::until("the request to arrive", || async { (slow.count() + quick.count() >= n).then_some(()) }).await;
    }
    // Two draws of two meet the slow one alone in a quarter of all cases; turn by turn it would be a half. The bound is
    // nearly five standard deviations from the former.
    assert!(slow.count() <= 45, "{} of 100 went to the endpoint that hangs", slow.count());
}

#[tokio::test]
async fn external_names_are_resolved_where_a_gatewayconfig_allows_them_and_nowhere_else() {
    let external = |name: &str, host: &str| {
        format!(
            "\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{type: ExternalName, externalName: {host}, ports: [{{port: 80}}]}}
"
        )
    };
    // Nothing allows it, and a loopback name never is.
    let shop = Shop::start(&[], &join([route_to("all", &[HOST], "out"), external("out", "localhost")])).await;
    let answer = shop.get("/").await;
    assert!(answer.status >= 500, "{answer:?}");
    let (_, problems) = shop.gateway.admin_get("/problems").await.unwrap();
    assert!(problems.contains("SLUICE-P212"), "{problems}");
}

#[tokio::test]
async fn app_protocols_choose_what_is_spoken_to_endpoints() {
    let h2c = Backend::echo("h2c").await;
    let shop = Shop::start(
        &[],
        &join([route_to("all", &[HOST], "h2c"), service_speaking("h2c", Some("kubernetes.io/h2c"), &[h2c.address])]),
    )
    .await;
    assert_eq!(shop.get("/").await.json()["version"], "HTTP/2.0");
}

/// Without a BackendTLSPolicy it is the host that says whom to trust.
#[tokio::test]
async fn app_protocols_of_tls_are_spoken_to_endpoints_that_the_host_trusts() {
    let (trusted, stranger) = (Authority::new("trusted"), Authority::new("stranger"));
    let leaf = trusted.leaf(&["web.default.svc", "chat.default.svc"]);
    let backend = Backend::echo_tls("secure", &leaf, &["http/1.1"]).await;
    let objects = join([
        route_to("web", &[HOST], "web"),
        service_speaking("web", Some("https"), &[backend.address]),
        route_to("chat", &["chat.example"], "chat"),
        service_speaking("chat", Some("kubernetes.io/wss"), &[backend.address]),
    ]);
    let start = async |authority: &Authority| {
        let folder = sluice_tests::Folder::new();
        let anchors = folder.state().join("anchors.pem");
        std::fs::write(&anchors, authority.pem()).unwrap();
        (Shop::start_as(&[], &objects, |options| options.environment("SSL_CERT_FILE", &anchors)).await, folder)
    };
    let (shop, _folder) = start(&stranger).await;
    assert_eq!(shop.get("/").await.status, 502);
    assert_eq!(shop.gateway.logged(|l| l["status"] == 502).await["reason"], "upstream_tls_failed");
    assert_eq!(backend.count(), 0);
    let (shop, _folder) = start(&trusted).await;
    assert_eq!(backend_of(&shop.get("/").await), "secure");
    let client = sluice_tests::certificate::connect(shop.https, HOST, shop.authority.client(&["http/1.1"]));
    let stream = client.await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://chat.example/chat", stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("secure: hello"));
}

#[tokio::test]
async fn a_backend_of_web_sockets_is_spoken_to_by_upgrade() {
    let backend = Backend::echo("chat").await;
    let chat = service_speaking("chat", Some("kubernetes.io/ws"), &[backend.address]);
    let shop = Shop::start(&[], &join([route_to("all", &[HOST], "chat"), chat])).await;
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", shop.http)).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/chat"), stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("chat: hello"));
}

pub(crate) fn backend_tls(service: &str, hostname: &str, ca: &str, more: &str) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {service}, namespace: default}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  validation: {{hostname: {hostname}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {ca}}}]{more}}}
"
    )
}

pub(crate) fn config_map(name: &str, authority: &Authority) -> String {
    let pem: String = authority.pem().lines().map(|l| format!("    {l}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n{pem}"
    )
}

#[tokio::test]
async fn tls_to_backends_checks_authority_and_name_and_never_borrows_a_connection_made_under_another_policy() {
    let (trusted, stranger) = (Authority::new("trusted"), Authority::new("stranger"));
    let leaf = trusted.leaf(&["inner.example"]);
    let backend = Backend::echo_tls("secure", &leaf, &["h2", "http/1.1"]).await;
    let shop = Shop::start(
        &[],
        &join([
            config_map("trusted", &trusted),
            config_map("stranger", &stranger),
            // The same endpoint under four policies.
            route_to("good", &["good.example"], "good"),
            service("good", &[backend.address]),
            backend_tls("good", "inner.example", "trusted", ""),
            route_to("ca", &["ca.example"], "ca"),
            service("ca", &[backend.address]),
            backend_tls("ca", "inner.example", "stranger", ""),
            route_to("name", &["name.example"], "name"),
            service("name", &[backend.address]),
            backend_tls("name", "other.example", "trusted", ""),
            route_to("san", &["san.example"], "san"),
            service("san", &[backend.address]),
            backend_tls(
                "san",
                "other.example",
                "trusted",
                ", subjectAltNames: [{type: Hostname, hostname: inner.example}]",
            ),
        ]),
    )
    .await;
    for round in 0..3 {
        for (host, status) in [("good.example", 200), ("ca.example", 502), ("name.example", 502), ("san.example", 200)]
        {
            let answer = shop.send("GET", "/", host, "").await;
            assert_eq!(answer.status, status, "{host} in round {round}: {}", answer.text());
        }
    }
    assert_eq!(shop.gateway.logged(|l| l["status"] == 502).await["reason"], "upstream_tls_failed");
}
