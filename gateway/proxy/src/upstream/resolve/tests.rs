use super::super::tests::support::{backend, options};
use super::super::{BackendRuntime, PickError, PickRequest, Registry};
use super::*;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use sluice_model::config::{BackendProtocol, EndpointSource, LoadBalancer};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::net::UdpSocket;

#[test]
fn addresses_that_turn_the_gateway_against_itself_are_refused() {
    let guard = AddressGuard::new(["10.9.9.9/32".parse().unwrap(), "10.96.0.1/32".parse().unwrap()]);
    let refused = [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "10.9.9.9",
        "10.96.0.1",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:10.96.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ];
    for address in refused {
        assert!(!guard.allows(address.parse().unwrap()), "{address}");
    }
    for address in ["192.0.2.1", "10.96.0.2", "2001:db8::1", "fd00::1", "64:ff9b::c000:201", "::ffff:192.0.2.1"] {
        assert!(guard.allows(address.parse().unwrap()), "{address}");
    }
}

#[test]
fn own_addresses_are_read_from_the_kernels_tables() {
    let fib = "Main:\n  +-- 10.0.0.0/8 2 0 2\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.255.255.255\n        /32 link BROADCAST\n";
    assert_eq!(local_v4(fib).collect::<Vec<_>>(), ["10.1.2.3".parse::<IpAddr>().unwrap()]);
    let inet6 = "20010db8000000000000000000000007 02 40 00 80     eth0\nnonsense\n";
    assert_eq!(local_v6(inet6).collect::<Vec<_>>(), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
}

/// A name server that says what the test wants.
#[derive(Clone, Default)]
struct NameServer {
    /// `None`: SERVFAIL.
    answer: Arc<Mutex<Option<Vec<[u8; 4]>>>>,
    queries: Arc<AtomicUsize>,
}

impl NameServer {
    async fn start(&self) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let this = self.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                socket.send_to(&this.reply(query).to_vec().unwrap(), client).await.unwrap();
            }
        });
        let mut connection = ConnectionConfig::new(ProtocolConfig::Udp);
        connection.port = port;
        let server = NameServerConfig::new("127.0.0.1".parse().unwrap(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        // Each question goes to the server: its answers change.
        builder.options_mut().cache_size = 0;
        Resolver::with(builder.build().unwrap())
    }

    fn reply(&self, query: Message) -> Message {
        let question = query.queries[0].clone();
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.add_query(question.clone());
        let answer = self.answer.lock().unwrap().clone();
        if question.query_type() == RecordType::A {
            self.queries.fetch_add(1, SeqCst);
        }
        match answer {
            None => reply.metadata.response_code = ResponseCode::ServFail,
            Some(addresses) if question.query_type() == RecordType::A => {
                for [a, b, c, d] in addresses {
                    reply.add_answer(Record::from_rdata(question.name().clone(), 1, RData::A(A::new(a, b, c, d))));
                }
            }
            Some(_) => {}
        }
        reply
    }

    fn say(&self, answer: Option<&[[u8; 4]]>) {
        *self.answer.lock().unwrap() = answer.map(<[_]>::to_vec);
    }
}

fn external(registry: &mut Registry) -> Arc<BackendRuntime> {
    external_with(registry, LoadBalancer::default())
}

fn external_with(registry: &mut Registry, load_balancer: LoadBalancer) -> Arc<BackendRuntime> {
    let mut backend = backend("external", BackendProtocol::Http1, None);
    backend.key.policy = u64::from(load_balancer != LoadBalancer::default());
    backend.policy.load_balancer = load_balancer;
    backend.source = EndpointSource::Dns { host: Hostname::parse("api.example.com").unwrap(), port: 443 };
    registry.backend(&Arc::new(backend), None, &BTreeMap::new())
}

fn addresses(runtime: &BackendRuntime) -> Vec<String> {
    runtime.state.current.load().endpoints().iter().map(|e| e.address.to_string()).collect()
}

use super::super::tests::support::eventually;

#[tokio::test]
async fn a_request_can_wait_for_the_first_answer() {
    for answer in [Some(&[[192, 0, 2, 1]][..]), None] {
        let server = NameServer::default();
        server.say(answer);
        let mut registry = Registry::new(options());
        registry.set_resolver(server.start().await);
        let runtime = external(&mut registry);
        assert!(addresses(&runtime).is_empty(), "nothing has been asked yet");
        let limit = Duration::from_secs(60);
        let start = Instant::now();
        runtime.settled(limit).await;
        assert!(start.elapsed() < limit, "the answer, not the limit, ended it");
        assert_eq!(addresses(&runtime).len(), answer.map_or(0, <[_]>::len));
        runtime.settled(limit).await;
    }
}

#[tokio::test]
async fn a_name_is_resolved_again_when_its_ttl_is_over() {
    let server = NameServer::default();
    server.say(Some(&[[192, 0, 2, 1], [192, 0, 2, 2]]));
    let mut registry = Registry::new(options());
    registry.set_resolver(server.start().await);
    let runtime = external(&mut registry);
    eventually("resolved", || addresses(&runtime) == ["192.0.2.1:443", "192.0.2.2:443"]).await;
    let kept = runtime.state.current.load().endpoints()[1].clone();
    server.say(Some(&[[192, 0, 2, 2], [192, 0, 2, 3]]));
    eventually("resolved again", || addresses(&runtime) == ["192.0.2.2:443", "192.0.2.3:443"]).await;
    assert!(Arc::ptr_eq(&kept, &runtime.state.current.load().endpoints()[0]), "its state stays");
}

#[tokio::test]
async fn the_last_good_answer_is_kept_while_resolution_fails() {
    let server = NameServer::default();
    server.say(Some(&[[192, 0, 2, 1]]));
    let mut registry = Registry::new(options());
    registry.set_resolver(server.start().await);
    let runtime = external(&mut registry);
    eventually("resolved", || addresses(&runtime) == ["192.0.2.1:443"]).await;
    server.say(None);
    eventually("failed", || runtime.state.metrics.resolve_failed.get() > 0).await;
    assert_eq!(addresses(&runtime), ["192.0.2.1:443"]);
}

#[tokio::test]
async fn another_policy_begins_with_the_addresses_that_are_known() {
    let server = NameServer::default();
    server.say(Some(&[[192, 0, 2, 1]]));
    let mut registry = Registry::new(options());
    registry.set_resolver(server.start().await);
    let before = external(&mut registry);
    eventually("resolved", || addresses(&before) == ["192.0.2.1:443"]).await;
    server.say(None);
    let after = external_with(&mut registry, LoadBalancer::LeastRequest);
    assert!(!Arc::ptr_eq(&before.state, &after.state));
    let first = |runtime: &BackendRuntime| runtime.state.current.load().endpoints()[0].clone();
    assert!(Arc::ptr_eq(&first(&before), &first(&after)), "with what is known of them");
    eventually("failed", || after.state.metrics.resolve_failed.get() > 0).await;
    assert_eq!(addresses(&after), ["192.0.2.1:443"]);
}

#[tokio::test]
async fn a_name_that_moves_to_a_forbidden_address_has_no_endpoints_left() {
    let server = NameServer::default();
    server.say(Some(&[[169, 254, 169, 254], [192, 0, 2, 1]]));
    let mut registry = Registry::new(options());
    registry.set_resolver(server.start().await);
    let runtime = external(&mut registry);
    eventually("resolved", || addresses(&runtime) == ["192.0.2.1:443"]).await;
    assert_eq!(runtime.state.metrics.resolve_refused.get(), 1);
    server.say(Some(&[[127, 0, 0, 1]]));
    eventually("refused", || addresses(&runtime).is_empty()).await;
    let headers = http::HeaderMap::new();
    let request = PickRequest { headers: &headers, client: [192, 0, 2, 9].into(), tried: &[] };
    assert_eq!(runtime.pick(&request).unwrap_err(), PickError::NoEndpoints);
}

#[tokio::test]
async fn resolution_ends_with_its_backend() {
    let server = NameServer::default();
    server.say(Some(&[[192, 0, 2, 1]]));
    let mut registry = Registry::new(options());
    registry.set_resolver(server.start().await);
    let runtime = external(&mut registry);
    eventually("resolved", || !addresses(&runtime).is_empty()).await;
    let state = Arc::downgrade(&runtime.state);
    drop(runtime);
    eventually("gone", || state.strong_count() == 0).await;
}
