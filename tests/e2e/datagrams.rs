//! UDPRoute: datagrams go to one endpoint a client, and answers to nobody but that client.

use sluice_tests::gateway::Options;
use sluice_tests::objects::{class, join, slice};
use sluice_tests::{Folder, Gateway, ports, wait};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long an answer on this host may take before it counts as lost.
const ANSWER: Duration = Duration::from_secs(5);

/// Answers each datagram with its name before it, once it may.
struct Echo {
    address: SocketAddr,
    /// One permit an answer.
    may: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

impl Echo {
    async fn named(name: &'static str) -> Echo {
        let echo = Echo::silent(name).await;
        echo.may.add_permits(Semaphore::MAX_PERMITS);
        echo
    }

    async fn silent(name: &'static str) -> Echo {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, may) = (socket.local_addr().unwrap(), Arc::new(Semaphore::new(0)));
        let (mut tasks, permits) = (JoinSet::new(), may.clone());
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                permits.acquire().await.unwrap().forget();
                let answer = [name.as_bytes(), b":", &buffer[..length]].concat();
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Echo { address, may, _tasks: tasks }
    }
}

/// A Gateway `edge` with UDP listeners of these names, whose settings are `config` (the inside of a GatewayConfig's
/// `spec.listeners[0]`), and what else there is.
fn configured(config: &str, listeners: &[(&str, u16)], more: impl IntoIterator<Item = String>) -> String {
    let list: String =
        listeners.iter().map(|(name, port)| format!("  - {{name: {name}, port: {port}, protocol: UDP}}\n")).collect();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\nspec:\n  \
         gatewayClassName: sluice\n  infrastructure:\n    parametersRef: {{group: sluice.dev, kind: GatewayConfig, name: \
         edge}}\n  listeners:\n{list}"
    );
    let config = format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {{name: edge, namespace: default}}\nspec:\n  \
         listeners: [{{name: \"*\", {config}}}]\n"
    );
    join([class(), gateway, config].into_iter().chain(more))
}

fn dns(port: u16, more: impl IntoIterator<Item = String>) -> String {
    configured("timeouts: {udpIdle: 60s}", &[("dns", port)], more)
}

/// A UDPRoute for the listener `dns`: `backends` as `name` or `name*weight`, each at port 53.
fn route(backends: &str) -> String {
    let refs: Vec<String> = backends
        .split_whitespace()
        .map(|backend| match backend.split_once('*') {
            Some((name, weight)) => format!("{{name: {name}, port: 53, weight: {weight}}}"),
            None => format!("{{name: {backend}, port: 53}}"),
        })
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: UDPRoute\nmetadata: {{name: dns, namespace: default}}\nspec:\n  \
         parentRefs: [{{name: edge, sectionName: dns}}]\n  rules: [{{backendRefs: [{}]}}]\n",
        refs.join(", ")
    )
}

/// A Service with the UDP port 53 and these endpoints.
fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         ports: [{{name: main, port: 53, protocol: UDP}}]\n"
    );
    let slices = endpoints.iter().enumerate().map(|(n, endpoint)| slice(name, n, *endpoint, "ready: true"));
    join(std::iter::once(service).chain(slices))
}

/// A client with an address of its own that hears nobody but `port`.
async fn client(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    socket
}

/// The answer to one datagram; `None`: there is none in time.
async fn asked(client: &UdpSocket, question: &str) -> Option<String> {
    client.send(question.as_bytes()).await.ok()?;
    let mut buffer = vec![0; 65_536];
    let length = timeout(ANSWER, client.recv(&mut buffer)).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Asks again, for as long as it takes, until the answer is `wanted`.
async fn until_answered(client: &UdpSocket, wanted: &str) {
    wait::until(wanted, || async {
        client.send(b"x").await.ok()?;
        let mut buffer = [0; 64];
        let length = timeout(Duration::from_millis(100), client.recv(&mut buffer)).await.ok()?.ok()?;
        (&buffer[..length] == wanted.as_bytes()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_stays_at_one_endpoint_until_it_is_silent_for_too_long() {
    let folder = Folder::new();
    let (one, two, port) = (Echo::named("one").await, Echo::named("two").await, ports::free());
    let more = [route("both"), service("both", &[one.address, two.address])];
    folder.write("udp.yaml", configured("timeouts: {udpIdle: 500ms}", &[("dns", port)], more));
    let gateway = Gateway::start(&folder).await;
    let first = client(port).await;
    let answer = asked(&first, "a").await.unwrap();
    let (name, _) = answer.split_once(':').unwrap();
    for _ in 0..20 {
        assert_eq!(asked(&first, "b").await.unwrap(), format!("{name}:b"));
    }
    // One that IP takes apart and puts together again, and one without a byte.
    let long = "x".repeat(60_000);
    assert_eq!(asked(&first, &long).await.unwrap(), format!("{name}:{long}"));
    assert_eq!(asked(&first, "").await.unwrap(), format!("{name}:"));
    let line = gateway.logged(|line| line["protocol"] == "UDP").await;
    assert_eq!(line["route"], "UDPRoute default/dns");
    assert_eq!(line["listener"], "default/edge/dns");
    assert_eq!(line["backend"], "default/both:53");
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(60_021), Some(60_021 + 23 * 4)));
    assert_eq!(line["reason"], "stream_idle");
    assert_eq!(gateway.metric("sluice_datagram_sessions_total", &["default/edge/dns", "stream_idle"]).await, 1.0);
    assert_eq!(gateway.metric("sluice_timeouts_total", &["udp_idle"]).await, 1.0);
    for direction in ["received", "sent"] {
        assert_eq!(gateway.metric("sluice_datagrams_total", &["UDPRoute default/dns/0", direction]).await, 23.0);
    }
    assert_eq!(gateway.metric("sluice_datagram_bytes_total", &["received"]).await, 60_021.0);
    // The next datagram begins another session.
    assert!(asked(&first, "c").await.unwrap().ends_with(":c"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_clients_each_hears_its_own_answers_and_no_others() {
    // Its sockets, as many of the gateway, and what else a process has.
    let clients = 10_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let folder = Folder::new();
    let (one, two, port) = (Echo::named("one").await, Echo::named("two").await, ports::free());
    folder.write("udp.yaml", dns(port, [route("both"), service("both", &[one.address, two.address])]));
    let gateway = Options::new(&folder).argument("--workers=2").start().await;
    let mut sockets = Vec::new();
    for _ in 0..clients {
        sockets.push(Arc::new(client(port).await));
    }
    let at_once = Arc::new(Semaphore::new(100));
    let mut first = 0;
    for round in 0..2 {
        let mut asking = JoinSet::new();
        for (n, socket) in sockets.iter().enumerate() {
            let (socket, at_once) = (socket.clone(), at_once.clone());
            asking.spawn(async move {
                let _permit = at_once.acquire().await.unwrap();
                let question = format!("{n}-{round}");
                (asked(&socket, &question).await, question)
            });
        }
        while let Some(asked) = asking.join_next().await {
            let (answer, question) = asked.unwrap();
            let answer = answer.unwrap_or_else(|| panic!("no answer to {question}"));
            let (name, echoed) = answer.split_once(':').unwrap();
            assert_eq!(echoed, question);
            first += u32::from(name == "one" && round == 0);
        }
    }
    assert!((4_000..=6_000).contains(&first), "{first} of 10,000 sessions went to one of two endpoints");
    let mut buffer = [0; 64];
    assert!(sockets.iter().all(|socket| socket.try_recv(&mut buffer).is_err()), "an answer that nobody asked for");
    assert_eq!(gateway.metric("sluice_requests_in_flight", &["default/edge/dns"]).await, f64::from(clients));
}

#[tokio::test]
async fn a_session_goes_elsewhere_with_the_next_datagram_once_its_endpoint_has_gone() {
    let folder = Folder::new();
    let (one, two, port) = (Echo::named("one").await, Echo::named("two").await, ports::free());
    let (more, idle) = (ports::free(), "timeouts: {udpIdle: 60s}");
    folder.write("udp.yaml", configured(idle, &[("dns", port)], [route("it")]));
    folder.write("service.yaml", service("it", &[one.address]));
    let gateway = Gateway::start(&folder).await;
    let (first, other) = (client(port).await, client(port).await);
    for client in [&first, &other] {
        assert_eq!(asked(client, "a").await.unwrap(), "one:a");
    }
    folder.write("service.yaml", service("it", &[two.address]));
    until_answered(&first, "two:x").await;
    let line = gateway.logged(|line| line["reason"] == "endpoint_gone").await;
    assert_eq!(line["endpoint"], one.address.to_string());
    // A change elsewhere ends nothing.
    let generation = gateway.metric("sluice_config_generation", &[]).await;
    folder.write("udp.yaml", configured(idle, &[("dns", port), ("more", more)], [route("it")]));
    wait::until("the change", || async {
        (gateway.metric("sluice_config_generation", &[]).await > generation).then_some(())
    })
    .await;
    assert_eq!(asked(&first, "b").await.unwrap(), "two:b");
    assert_eq!(gateway.metric("sluice_datagram_sessions_total", &["endpoint_gone"]).await, 1.0);
}

#[tokio::test]
async fn a_listener_of_datagrams_comes_and_goes_while_another_serves() {
    let folder = Folder::new();
    let (one, port, more) = (Echo::named("one").await, ports::free(), ports::free());
    let second = route("it").replace("{name: dns,", "{name: more,").replace("sectionName: dns", "sectionName: more");
    let rest = || [route("it"), second.clone(), service("it", &[one.address])];
    let idle = "timeouts: {udpIdle: 60s}";
    folder.write("udp.yaml", configured(idle, &[("dns", port)], rest()));
    let _gateway = Gateway::start(&folder).await;
    let stays = client(port).await;
    assert_eq!(asked(&stays, "a").await.unwrap(), "one:a");
    for _ in 0..3 {
        folder.write("udp.yaml", configured(idle, &[("dns", port), ("more", more)], rest()));
        let comes = client(more).await;
        until_answered(&comes, "one:x").await;
        folder.write("udp.yaml", configured(idle, &[("dns", port)], rest()));
        wait::until("the port to close", || async {
            // Nobody has it any more: the kernel says so to the one that sends there.
            let _ = comes.send(b"x").await;
            let mut buffer = [0; 64];
            match timeout(Duration::from_millis(100), comes.recv(&mut buffer)).await {
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Some(()),
                _ => None,
            }
        })
        .await;
        assert_eq!(asked(&stays, "b").await.unwrap(), "one:b");
    }
}

#[tokio::test]
async fn a_backend_of_another_namespace_takes_datagrams_where_a_grant_permits_it() {
    let folder = Folder::new();
    let (one, port) = (Echo::named("one").await, ports::free());
    let far = route("far").replace("{name: far,", "{name: far, namespace: other,");
    let more = [far, service("far", &[one.address]).replace("namespace: default", "namespace: other")];
    folder.write("udp.yaml", dns(port, more));
    let gateway = Gateway::start(&folder).await;
    let client = client(port).await;
    client.send(b"x").await.unwrap();
    wait::until("the datagram to be dropped", || async {
        (gateway.metric("sluice_datagrams_dropped_total", &["invalid_backend"]).await >= 1.0).then_some(())
    })
    .await;
    folder.write(
        "grant.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: far, namespace: other}\nspec:\n  \
         from: [{group: gateway.networking.k8s.io, kind: UDPRoute, namespace: default}]\n  to: [{group: \"\", kind: Service}]\n",
    );
    until_answered(&client, "one:x").await;
}

#[tokio::test]
async fn sessions_are_spread_by_weight_and_a_backend_that_is_none_takes_its_share_as_dropped_datagrams() {
    let folder = Folder::new();
    let (one, two, port) = (Echo::named("one").await, Echo::named("two").await, ports::free());
    // A Service of that name has the number for TCP only.
    let tcp = service("tcp", &[one.address]).replace(", protocol: UDP", "");
    let more = [
        route("one*6 two*2 nobody*1 tcp*1 never*0"),
        service("one", &[one.address]),
        service("two", &[two.address]),
        service("never", &[one.address]),
        tcp,
    ];
    folder.write("udp.yaml", dns(port, more));
    let gateway = Gateway::start(&folder).await;
    let mut sockets = Vec::new();
    for _ in 0..500 {
        let socket = client(port).await;
        socket.send(b"x").await.unwrap();
        sockets.push(socket);
    }
    let mut found: BTreeMap<usize, String> = BTreeMap::new();
    let dropped = wait::until("an answer or a drop for each", || {
        let mut buffer = [0; 64];
        for (n, socket) in sockets.iter().enumerate() {
            if let Ok(length) = socket.try_recv(&mut buffer) {
                found.insert(n, String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        }
        let (answered, gateway) = (found.len(), &gateway);
        async move {
            let dropped = gateway.metric("sluice_datagrams_dropped_total", &["invalid_backend"]).await as usize;
            (answered + dropped == 500).then_some(dropped)
        }
    })
    .await;
    let of = |name: &str| found.values().filter(|answer| *answer == name).count();
    // Six standard deviations of a fair draw.
    for (count, share) in [(of("one:x"), 300), (of("two:x"), 100), (dropped, 100)] {
        assert!(count.abs_diff(share) < 66, "{} {} {dropped}", of("one:x"), of("two:x"));
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_left_for_another() {
    let folder = Folder::new();
    let (one, port) = (Echo::named("one").await, ports::free());
    let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    folder.write("udp.yaml", dns(port, [route("both"), service("both", &[gone, one.address])]));
    let gateway = Gateway::start(&folder).await;
    for _ in 0..8 {
        until_answered(&client(port).await, "one:x").await;
    }
    let line = gateway.logged(|line| line["reason"] == "upstream_connect_failed").await;
    assert_eq!(line["endpoint"], gone.to_string());
}

#[tokio::test]
async fn what_may_not_pass_is_dropped_and_counted_by_its_reason() {
    let folder = Folder::new();
    let (one, port, empty) = (Echo::named("one").await, ports::free(), ports::free());
    let policy = |nets: &str| {
        format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: default}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: UDPRoute, name: dns}}]\n  client: {{ipAllow: [{nets}]}}\n"
        )
    };
    folder.write(
        "udp.yaml",
        configured(
            "limits: {udpSessions: 1}",
            &[("dns", port), ("none", empty)],
            [route("one"), service("one", &[one.address])],
        ),
    );
    folder.write("policy.yaml", policy("10.0.0.0/8"));
    let gateway = Gateway::start(&folder).await;
    let dropped = async |listener: &str, reason: &str| {
        let labels = [listener, reason];
        wait::until(reason, || async {
            (gateway.metric("sluice_datagrams_dropped_total", &labels).await > 0.0).then_some(())
        })
        .await;
    };
    let (first, second) = (client(port).await, client(port).await);
    first.send(b"x").await.unwrap();
    dropped("default/edge/dns", "client_denied").await;
    client(empty).await.send(b"x").await.unwrap();
    dropped("default/edge/none", "route_not_found").await;
    folder.write("policy.yaml", policy("127.0.0.0/8"));
    until_answered(&first, "one:x").await;
    second.send(b"x").await.unwrap();
    dropped("default/edge/dns", "session_limit").await;
    assert!(gateway.metric("sluice_limit_hits_total", &["udp_sessions"]).await > 0.0);
    // What has begun ends as soon as the policy says so.
    folder.write("policy.yaml", policy("10.0.0.0/8"));
    wait::until("the session to end", || async {
        first.send(b"x").await.ok()?;
        gateway.access_log().iter().any(|line| line["reason"] == "endpoint_gone").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_answer_comes_from_the_address_that_was_asked() {
    let folder = Folder::new();
    let (one, port) = (Echo::named("one").await, ports::free());
    folder.write("udp.yaml", dns(port, [route("one"), service("one", &[one.address])]));
    let gateway = Gateway::start(&folder).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut buffer = [0; 64];
    // One client, two addresses of ours: two sessions.
    for last in [2, 3] {
        let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        socket.send_to(b"x", asked).await.unwrap();
        let (length, from) = timeout(ANSWER, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..length], from), (b"one:x".as_slice(), asked));
    }
    assert_eq!(gateway.metric("sluice_requests_in_flight", &["default/edge/dns"]).await, 2.0);
}

#[tokio::test]
async fn a_gateway_that_is_told_to_stop_passes_the_answer_that_is_waited_for() {
    let folder = Folder::new();
    let (slow, port) = (Echo::silent("slow").await, ports::free());
    folder.write("udp.yaml", dns(port, [route("slow"), service("slow", &[slow.address])]));
    let mut gateway = Gateway::start(&folder).await;
    let client = client(port).await;
    client.send(b"x").await.unwrap();
    let taken = || async { (gateway.metric("sluice_datagrams_total", &["received"]).await == 1.0).then_some(()) };
    wait::until("the datagram to be taken", taken).await;
    gateway.signal(rustix::process::Signal::TERM);
    wait::until("draining", || async { gateway.log().iter().any(|line| line.contains("drain")).then_some(()) }).await;
    slow.may.add_permits(1);
    let mut buffer = [0; 64];
    let length = timeout(ANSWER, client.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..length], b"slow:x");
    assert!(gateway.exited().await.success());
    assert!(gateway.access_log().iter().any(|line| line["reason"] == "shutting_down"));
}

#[tokio::test]
async fn a_successor_takes_the_socket_over_and_no_datagram_is_lost() {
    let folder = Folder::new();
    let (one, port) = (Echo::named("one").await, ports::free());
    folder.write("udp.yaml", dns(port, [route("one"), service("one", &[one.address])]));
    let mut old = Options::new(&folder).argument("--workers=2").start().await;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let asking = tokio::spawn(async move {
        let (client, mut count) = (client(port).await, 0);
        while !*stopped.borrow_and_update() {
            assert_eq!(asked(&client, "x").await.as_deref(), Some("one:x"), "after {count}");
            count += 1;
        }
        count
    });
    let new = Options::successor_of(&folder, &old).argument("--workers=2").start().await;
    new.says_ready().await;
    assert!(old.exited().await.success());
    assert_eq!(asked(&client(port).await, "y").await.as_deref(), Some("one:y"));
    stop.send(true).unwrap();
    assert!(asking.await.unwrap() > 0);
    assert!(new.metric("sluice_datagrams_total", &["received"]).await > 0.0);
}
