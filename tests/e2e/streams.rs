//! Connections that go to one backend as a whole: TCPRoute, and TLSRoute with TLS that ends here or passes through.

use crate::shop::backend_of;
use sluice_tests::certificate::{self, Authority};
use sluice_tests::objects::{class, join, route_to, secret, service};
use sluice_tests::{Backend, Folder, Gateway, ports, raw, wait};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Says its name, then gives back what it is sent until the client has said all; then says goodbye.
struct Parrot {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Parrot {
    async fn named(name: &'static str) -> Parrot {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                open.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    if write.write_all(name.as_bytes()).await.is_err() {
                        return;
                    }
                    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                        let _ = write.write_all(b"bye").await;
                    }
                });
            }
        });
        Parrot { address, _tasks: tasks }
    }
}

/// A Gateway `edge` with these listeners.
fn gateway(listeners: &[String]) -> String {
    let list: String = listeners.iter().map(|listener| format!("  - {listener}\n")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\nspec:\n  \
         gatewayClassName: sluice\n  listeners:\n{list}"
    )
}

fn tcp(name: &str, port: u16) -> String {
    format!("{{name: {name}, port: {port}, protocol: TCP}}")
}

fn tls(name: &str, port: u16, host: &str, mode: &str) -> String {
    format!("{{name: {name}, port: {port}, protocol: TLS, hostname: \"{host}\", tls: {{{mode}}}}}")
}

/// A Gateway with the one TCP listener `db`, and what else there is.
fn database(port: u16, more: impl IntoIterator<Item = String>) -> String {
    join([class(), gateway(&[tcp("db", port)])].into_iter().chain(more))
}

/// A TCPRoute or TLSRoute: `backends` as `name` or `name*weight`, each at port 80.
fn route(kind: &str, name: &str, listener: &str, hosts: &str, backends: &str) -> String {
    let refs: Vec<String> = backends
        .split_whitespace()
        .map(|backend| match backend.split_once('*') {
            Some((name, weight)) => format!("{{name: {name}, port: 80, weight: {weight}}}"),
            None => format!("{{name: {backend}, port: 80}}"),
        })
        .collect();
    let hosts = if hosts.is_empty() { String::new() } else { format!("  hostnames: [\"{hosts}\"]\n") };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         parentRefs: [{{name: edge, sectionName: {listener}}}]\n{hosts}  rules: [{{backendRefs: [{}]}}]\n",
        refs.join(", ")
    )
}

/// What a parrot says first.
async fn greeting(port: u16) -> std::io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut name = [0; 3];
    stream.read_exact(&mut name).await?;
    Ok((stream, String::from_utf8_lossy(&name).into_owned()))
}

#[tokio::test]
async fn a_tcp_route_passes_bytes_both_ways_and_each_side_ends_by_itself() {
    let folder = Folder::new();
    let (parrot, port) = (Parrot::named("one").await, ports::free());
    folder.write(
        "tcp.yaml",
        database(port, [route("TCPRoute", "db", "db", "", "one"), service("one", &[parrot.address])]),
    );
    let gateway = Gateway::start(&folder).await;
    // The server speaks first.
    let (mut stream, name) = greeting(port).await.unwrap();
    assert_eq!(name, "one");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        // All is said; the rest of the answer is still to come.
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, reading) = tokio::join!(writing, read.read_to_end(&mut heard));
    reading.unwrap();
    assert_eq!(heard.len(), sent.len() + 3);
    assert!(heard.starts_with(&sent) && heard.ends_with(b"bye"));

    let line = gateway.logged(|line| line["protocol"] == "TCP").await;
    assert_eq!(line["route"], "TCPRoute default/db");
    assert_eq!(line["listener"], "default/edge/db");
    assert_eq!(line["backend"], "default/one:80");
    assert_eq!(line["endpoint"], parrot.address.to_string());
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(1_000_000), Some(1_000_006)));
    assert_eq!(line["reason"], "upstream");
    assert_eq!(gateway.metric("sluice_stream_connections_total", &["default/edge/db", "upstream"]).await, 1.0);
    assert_eq!(gateway.metric("sluice_stream_bytes_total", &["TCPRoute default/db/0", "received"]).await, 1_000_000.0);
}

#[tokio::test]
async fn a_change_of_the_backend_is_for_new_connections_and_cuts_none_that_run() {
    let folder = Folder::new();
    let (one, two, port) = (Parrot::named("one").await, Parrot::named("two").await, ports::free());
    folder.write(
        "tcp.yaml",
        join([class(), gateway(&[tcp("db", port)]), service("one", &[one.address]), service("two", &[two.address])]),
    );
    folder.write("route.yaml", route("TCPRoute", "db", "db", "", "one"));
    let _gateway = Gateway::start(&folder).await;
    let (mut running, name) = greeting(port).await.unwrap();
    assert_eq!(name, "one");
    for n in 0..10 {
        let (wanted, backend) = if n % 2 == 0 { ("two", "two") } else { ("one", "one") };
        folder.write("route.yaml", route("TCPRoute", "db", "db", "", backend));
        wait::until("the other backend", || async { (greeting(port).await.ok()?.1 == wanted).then_some(()) }).await;
        running.write_all(b"still here").await.unwrap();
        let mut back = [0; 10];
        running.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"still here");
    }
}

/// Connections that run for as long as the backend is flipped, and those that come and go beside them.
const RUNNING: usize = 16;
const PASSING: usize = 4;
const FLIPS: usize = 100;

/// Says something, and hears it back.
async fn exchange(stream: &mut TcpStream, round: usize) -> std::io::Result<()> {
    let said = [round as u8; 1024];
    let mut heard = [0; 1024];
    stream.write_all(&said).await?;
    stream.read_exact(&mut heard).await?;
    assert_eq!(said, heard);
    Ok(())
}

/// Ends a connection as both sides mean it.
async fn goodbye(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    assert_eq!(rest, b"bye");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_flips_of_the_backend_under_load_reset_no_connection() {
    let folder = Folder::new();
    let (one, two, port) = (Parrot::named("one").await, Parrot::named("two").await, ports::free());
    folder.write("tcp.yaml", database(port, [service("one", &[one.address]), service("two", &[two.address])]));
    folder.write("route.yaml", route("TCPRoute", "db", "db", "", "one"));
    let _gateway = Gateway::start(&folder).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut load = JoinSet::new();
    for _ in 0..RUNNING {
        let (mut stream, name) = greeting(port).await.unwrap();
        assert_eq!(name, "one");
        let stopped = stopped.clone();
        load.spawn(async move {
            let mut rounds = 0;
            while !*stopped.borrow() {
                exchange(&mut stream, rounds).await.unwrap_or_else(|e| panic!("cut after {rounds} rounds: {e}"));
                rounds += 1;
            }
            goodbye(stream).await.unwrap();
            rounds
        });
    }
    for _ in 0..PASSING {
        let stopped = stopped.clone();
        load.spawn(async move {
            let mut rounds = 0;
            while !*stopped.borrow() {
                let (mut stream, _) = greeting(port).await.unwrap_or_else(|e| panic!("refused after {rounds}: {e}"));
                exchange(&mut stream, rounds).await.unwrap();
                goodbye(stream).await.unwrap();
                rounds += 1;
            }
            rounds
        });
    }
    for n in 0..FLIPS {
        let backend = if n % 2 == 0 { "two" } else { "one" };
        folder.write("route.yaml", route("TCPRoute", "db", "db", "", backend));
        wait::until("the other backend", || async { (greeting(port).await.ok()?.1 == backend).then_some(()) }).await;
    }
    stop.send(true).unwrap();
    let rounds = load.join_all().await;
    assert!(rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
    println!("{FLIPS} flips over {} exchanges", rounds.iter().sum::<usize>());
}

/// Names that pass through, spread over as many backends with a certificate each.
const SNI_NAMES: usize = 2_000;
const SNI_BACKENDS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_thousand_names_each_passes_through_to_its_own_backend() {
    let (folder, authority, port) = (Folder::new(), Authority::new("inner"), ports::free());
    let names: Vec<String> = (0..SNI_NAMES).map(|n| format!("n{n}.sni.example")).collect();
    let mut documents = vec![class(), gateway(&[tls("through", port, "*.sni.example", "mode: Passthrough")])];
    let mut backends = Vec::new();
    for b in 0..SNI_BACKENDS {
        let own: Vec<&str> = names.iter().skip(b).step_by(SNI_BACKENDS).map(String::as_str).collect();
        let leaf = authority.leaf(&own);
        let backend = Backend::echo_tls("through", &leaf, &["http/1.1"]).await;
        documents.push(service(&format!("b{b}"), &[backend.address]));
        backends.push((backend, leaf));
    }
    folder.write("backends.yaml", join(documents));
    let routes = |of: usize| {
        let route = |(n, name): (usize, &String)| {
            route("TLSRoute", &format!("n{n}"), "through", name, &format!("b{}", n % SNI_BACKENDS))
        };
        join(names.iter().enumerate().take(of).map(route))
    };
    folder.write("routes.yaml", routes(SNI_NAMES));
    let _gateway = Gateway::start(&folder).await;
    let client = authority.client(&["http/1.1"]);
    let mut times = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let began = std::time::Instant::now();
        let stream = certificate::connect(port, name, client.clone()).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        times.push(began.elapsed());
        let (_, leaf) = &backends[n % SNI_BACKENDS];
        assert_eq!(certificate::shown(&stream).to_vec(), leaf.der.to_vec(), "{name}");
    }
    assert!(certificate::connect(port, "n2000.sni.example", client.clone()).await.is_err(), "nobody has this name");
    // One name changes hands, and none of the others.
    let moved = routes(SNI_NAMES).replacen("hostnames: [\"n7.sni.example\"]", "hostnames: [\"n2000.sni.example\"]", 1);
    folder.write("routes.yaml", moved);
    wait::until("the name to be gone", || async {
        certificate::connect(port, "n7.sni.example", client.clone()).await.is_err().then_some(())
    })
    .await;
    let stream = certificate::connect(port, "n27.sni.example", client.clone()).await.unwrap();
    assert_eq!(certificate::shown(&stream).to_vec(), backends[7].1.der.to_vec());

    // With a twentieth of the names a handshake takes no less.
    folder.write("routes.yaml", routes(SNI_NAMES / 20));
    wait::until("few names", || async {
        certificate::connect(port, "n1999.sni.example", client.clone()).await.is_err().then_some(())
    })
    .await;
    let mut few = Vec::new();
    for name in names.iter().take(SNI_NAMES / 20).cycle().take(SNI_NAMES / 4) {
        let began = std::time::Instant::now();
        certificate::connect(port, name, client.clone()).await.unwrap();
        few.push(began.elapsed());
    }
    let median = |times: &mut Vec<std::time::Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (many, few) = (median(&mut times), median(&mut few));
    println!("a handshake through the gateway: {many:?} with {SNI_NAMES} names, {few:?} with {}", SNI_NAMES / 20);
    if std::env::var_os("SLUICE_JUDGED").is_some_and(|v| v == "1") {
        assert!(many < few * 3 / 2, "{many:?} with {SNI_NAMES} names, {few:?} with few");
    }
}

#[tokio::test]
async fn connections_are_spread_by_weight_and_a_backend_that_is_none_takes_its_share_as_closed_ones() {
    let folder = Folder::new();
    let (one, two, port) = (Parrot::named("one").await, Parrot::named("two").await, ports::free());
    folder.write(
        "tcp.yaml",
        database(
            port,
            [
                route("TCPRoute", "db", "db", "", "one*6 two*2 nobody*2 never*0"),
                service("one", &[one.address]),
                service("two", &[two.address]),
                service("never", &[one.address]),
            ],
        ),
    );
    let gateway = Gateway::start(&folder).await;
    let (mut first, mut second, mut closed) = (0_i32, 0_i32, 0_i32);
    for _ in 0..500 {
        match greeting(port).await {
            Ok((_, name)) if name == "one" => first += 1,
            Ok(_) => second += 1,
            Err(_) => closed += 1,
        }
    }
    // Six standard deviations of a fair draw.
    for (count, share) in [(first, 300), (second, 100), (closed, 100)] {
        assert!((count - share).abs() < 66, "{first} {second} {closed}");
    }
    let invalid = gateway.metric("sluice_stream_connections_total", &["invalid_backend"]).await;
    assert_eq!(invalid as i32, closed);
}

#[tokio::test]
async fn connections_go_to_every_endpoint_of_a_service() {
    let folder = Folder::new();
    let (one, two, port) = (Parrot::named("one").await, Parrot::named("two").await, ports::free());
    let both = service("both", &[one.address, two.address]);
    folder.write("tcp.yaml", database(port, [route("TCPRoute", "db", "db", "", "both"), both]));
    let _gateway = Gateway::start(&folder).await;
    let mut first = 0;
    for _ in 0..200 {
        first += u32::from(greeting(port).await.unwrap().1 == "one");
    }
    // Six standard deviations of a fair draw.
    assert!(first.abs_diff(100) < 43, "{first} of 200 went to one of two endpoints");
}

/// As long as its name is spoken for: what a client hears that connects by TLS with this name.
async fn secure_greeting(port: u16, name: &str, authority: &Authority) -> std::io::Result<String> {
    let mut stream = certificate::connect(port, name, authority.client(&[])).await?;
    let mut said = [0; 3];
    stream.read_exact(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn connections_of_tls_are_spread_by_weight_too() {
    let (folder, authority, port) = (Folder::new(), Authority::new("edge"), ports::free());
    let (one, two) = (Parrot::named("one").await, Parrot::named("two").await);
    folder.write(
        "tls.yaml",
        join([
            class(),
            gateway(&[tls("ends", port, "ends.example", "mode: Terminate, certificateRefs: [{name: edge}]")]),
            secret("edge", &authority.leaf(&["ends.example"])),
            route("TLSRoute", "ends", "ends", "ends.example", "one*3 two"),
            service("one", &[one.address]),
            service("two", &[two.address]),
        ]),
    );
    let _gateway = Gateway::start(&folder).await;
    let mut first = 0_i32;
    for _ in 0..200 {
        first += i32::from(secure_greeting(port, "ends.example", &authority).await.unwrap() == "one");
    }
    // Six standard deviations of a fair draw.
    assert!((first - 150).abs() < 37, "{first} of 200 went where three of four should");
}

#[tokio::test]
async fn listeners_of_bytes_come_and_go_while_others_serve() {
    let (folder, authority) = (Folder::new(), Authority::new("edge"));
    let [port, more, secure] = [(); 3].map(|()| ports::free());
    let (one, two) = (Parrot::named("one").await, Parrot::named("two").await);
    folder.write(
        "rest.yaml",
        join([
            class(),
            secret("edge", &authority.leaf(&["ends.example"])),
            route("TCPRoute", "db", "db", "", "one"),
            route("TCPRoute", "more", "more", "", "two"),
            route("TLSRoute", "ends", "ends", "ends.example", "two"),
            service("one", &[one.address]),
            service("two", &[two.address]),
        ]),
    );
    folder.write("gateway.yaml", gateway(&[tcp("db", port)]));
    let _gateway = Gateway::start(&folder).await;
    let (mut running, _) = greeting(port).await.unwrap();
    for round in 0..3 {
        let ends = tls("ends", secure, "ends.example", "mode: Terminate, certificateRefs: [{name: edge}]");
        folder.write("gateway.yaml", gateway(&[tcp("db", port), tcp("more", more), ends]));
        wait::until("the new port", || async { (greeting(more).await.ok()?.1 == "two").then_some(()) }).await;
        let heard = || async { secure_greeting(secure, "ends.example", &authority).await.ok() };
        assert_eq!(wait::until("TLS on another", heard).await, "two");
        folder.write("gateway.yaml", gateway(&[tcp("db", port)]));
        for gone in [more, secure] {
            let refused = || async { TcpStream::connect((Ipv4Addr::LOCALHOST, gone)).await.is_err().then_some(()) };
            wait::until("the port to close", refused).await;
        }
        exchange(&mut running, round).await.unwrap();
        assert_eq!(greeting(port).await.unwrap().1, "one");
    }
}

#[tokio::test]
async fn a_backend_of_another_namespace_takes_connections_where_a_grant_permits_it() {
    let (folder, authority) = (Folder::new(), Authority::new("edge"));
    let (port, secure, one) = (ports::free(), ports::free(), Parrot::named("one").await);
    let far = |route: String| route.replace("{name: far, port: 80}", "{name: far, namespace: other, port: 80}");
    folder.write(
        "rest.yaml",
        join([
            class(),
            gateway(&[
                tcp("db", port),
                tls("ends", secure, "ends.example", "mode: Terminate, certificateRefs: [{name: edge}]"),
            ]),
            secret("edge", &authority.leaf(&["ends.example"])),
            far(route("TCPRoute", "db", "db", "", "far")),
            far(route("TLSRoute", "ends", "ends", "ends.example", "far")),
            service("far", &[one.address]).replace("namespace: default", "namespace: other"),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    let grant = |kind: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: far, namespace: other}}\nspec:\n  \
             from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}]\n  to: [{{group: \"\", kind: Service}}]\n"
        )
    };
    assert!(greeting(port).await.is_err() && secure_greeting(secure, "ends.example", &authority).await.is_err());
    assert_eq!(gateway.metric("sluice_stream_connections_total", &["default/edge/db", "invalid_backend"]).await, 1.0);
    // It permits the one kind and not the other.
    folder.write("grant.yaml", grant("TCPRoute"));
    let heard = || async { greeting(port).await.ok().map(|(_, name)| name) };
    assert_eq!(wait::until("the grant for TCPRoutes", heard).await, "one");
    assert!(secure_greeting(secure, "ends.example", &authority).await.is_err());
    folder.write("grant.yaml", grant("TLSRoute"));
    let heard = || async { secure_greeting(secure, "ends.example", &authority).await.ok() };
    assert_eq!(wait::until("the grant for TLSRoutes", heard).await, "one");
    assert!(greeting(port).await.is_err());
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_connected_to_is_passed_over_and_without_any_the_client_is_let_go() {
    let folder = Folder::new();
    let (one, port, other) = (Parrot::named("one").await, ports::free(), ports::free());
    let gone = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
    folder.write(
        "tcp.yaml",
        join([
            class(),
            gateway(&[tcp("db", port), tcp("none", other)]),
            route("TCPRoute", "db", "db", "", "both"),
            route("TCPRoute", "none", "none", "", "none"),
            service("both", &[gone, one.address]),
            service("none", &[]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    for _ in 0..8 {
        assert_eq!(greeting(port).await.unwrap().1, "one");
    }
    assert!(greeting(other).await.is_err());
    let line = gateway.logged(|line| line["listener"] == "default/edge/none").await;
    assert_eq!(line["reason"], "no_endpoints");
}

#[tokio::test]
async fn tls_passes_through_ends_here_or_carries_http_on_one_port_by_its_name() {
    let (folder, authority, inner) = (Folder::new(), Authority::new("edge"), Authority::new("inner"));
    let port = ports::free();
    let leaf = inner.leaf(&["through.example"]);
    let secure = Backend::echo_tls("secure", &leaf, &["h2", "http/1.1"]).await;
    let (parrot, web) = (Parrot::named("one").await, Backend::echo("web").await);
    let refs = "certificateRefs: [{name: edge}]";
    folder.write(
        "tls.yaml",
        join([
            class(),
            gateway(&[
                tls("through", port, "through.example", "mode: Passthrough"),
                tls("ends", port, "ends.example", &format!("mode: Terminate, {refs}")),
                format!("{{name: web, port: {port}, protocol: HTTPS, hostname: web.example, tls: {{{refs}}}}}"),
            ]),
            secret("edge", &authority.leaf(&["ends.example", "web.example"])),
            route("TLSRoute", "through", "through", "through.example", "secure"),
            route("TLSRoute", "ends", "ends", "ends.example", "one"),
            route_to("web", &["web.example"], "web"),
            service("secure", &[secure.address]),
            service("one", &[parrot.address]),
            service("web", &[web.address]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;

    // The backend's own certificate, and what it agrees on.
    let stream = certificate::connect(port, "through.example", inner.client(&["http/1.1"])).await.unwrap();
    assert_eq!(certificate::shown(&stream).to_vec(), leaf.der.to_vec());
    let answer = raw::get_once(raw::Client::over(stream), "through.example", "/").await.unwrap();
    assert_eq!(backend_of(&answer), "secure");
    let line = gateway.logged(|line| line["listener"] == "default/edge/through").await;
    assert_eq!((&line["sni"], &line["protocol"]), (&"through.example".into(), &"TLS".into()));
    assert!(line.get("tls_version").is_none(), "nothing of it was seen here: {line}");

    // Ours, and bytes in the clear behind it; nothing is agreed on, whatever the client offers.
    let mut stream = certificate::connect(port, "ends.example", authority.client(&["h2"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    let mut name = [0; 3];
    stream.read_exact(&mut name).await.unwrap();
    assert_eq!(&name, b"one");
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    drop(stream);
    let line = gateway.logged(|line| line["listener"] == "default/edge/ends").await;
    assert_eq!(line["tls_version"], "TLSv1_3");

    let client = raw::Client::connect_tls(port, "web.example", authority.client(&["http/1.1"])).await.unwrap();
    assert_eq!(backend_of(&raw::get_once(client, "web.example", "/").await.unwrap()), "web");
    // A request for a host of a listener that carries bytes was made for another connection.
    let client = raw::Client::connect_tls(port, "web.example", authority.client(&["http/1.1"])).await.unwrap();
    assert_eq!(raw::get_once(client, "ends.example", "/").await.unwrap().status, 421);
    assert!(certificate::connect(port, "other.example", inner.client(&[])).await.is_err());
}

#[tokio::test]
async fn a_policy_lets_only_some_addresses_connect() {
    let folder = Folder::new();
    let (one, port) = (Parrot::named("one").await, ports::free());
    let policy = |nets: &str| {
        format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: default}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: TCPRoute, name: db}}]\n  client: {{ipAllow: [{nets}]}}\n"
        )
    };
    folder
        .write("tcp.yaml", database(port, [route("TCPRoute", "db", "db", "", "one"), service("one", &[one.address])]));
    folder.write("policy.yaml", policy("10.0.0.0/8"));
    let gateway = Gateway::start(&folder).await;
    assert!(greeting(port).await.is_err());
    gateway.logged(|line| line["reason"] == "client_denied").await;
    folder.write("policy.yaml", policy("127.0.0.0/8"));
    wait::until("the client to be let in", || async { greeting(port).await.ok() }).await;
}

#[tokio::test]
async fn a_stream_without_a_byte_is_closed_after_its_idle_time() {
    let folder = Folder::new();
    let (one, port) = (Parrot::named("one").await, ports::free());
    let config = "apiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {name: edge, namespace: default}\nspec:\n  \
                  listeners: [{name: \"*\", timeouts: {streamIdle: 200ms}}]\n";
    let parameters = "  infrastructure:\n    parametersRef: {group: sluice.dev, kind: GatewayConfig, name: edge}\n";
    folder.write(
        "tcp.yaml",
        join([
            class(),
            gateway(&[tcp("db", port)]) + parameters,
            config.to_owned(),
            route("TCPRoute", "db", "db", "", "one"),
            service("one", &[one.address]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    let (mut stream, _) = greeting(port).await.unwrap();
    let mut rest = Vec::new();
    // However it is closed, nothing more comes.
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    gateway.logged(|line| line["reason"] == "stream_idle").await;
    assert_eq!(gateway.metric("sluice_timeouts_total", &["stream_idle"]).await, 1.0);
}
