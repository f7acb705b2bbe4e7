//! RFC 9113: requests side by side, graceful ends, and bounds on what the protocol lets a client do.

use super::super::h2_frames::tests::frame;
use super::super::h2_frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::client::Client;
use super::*;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const PING: u8 = 0x6;
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// `:method GET`, `:scheme http`, `:path /`, `:authority a` (RFC 7541, appendix A).
const GET_ROOT: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

type Connected = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

async fn connect(address: SocketAddr) -> Connected {
    let io = TcpStream::connect(address).await.unwrap();
    let (send, connection) = within(h2::client::handshake(io)).await.unwrap();
    (send, tokio::spawn(connection))
}

fn request(path: &str) -> http::Request<()> {
    http::Request::get(format!("http://a.test{path}")).version(http::Version::HTTP_2).body(()).unwrap()
}

async fn body(response: http::Response<h2::RecvStream>) -> String {
    let mut stream = response.into_body();
    let mut all = Vec::new();
    while let Some(part) = within(stream.data()).await {
        let part = part.unwrap();
        let _ = stream.flow_control().release_capacity(part.len());
        all.extend(part);
    }
    String::from_utf8(all).unwrap()
}

async fn get(send: &mut SendRequest<Bytes>, path: &str) -> String {
    let mut ready = within(send.clone().ready()).await.unwrap();
    let (response, _) = ready.send_request(request(path), true).unwrap();
    body(within(response).await.unwrap()).await
}

/// A connection with a request that runs until it is released.
async fn holding(
    gateway: &Gateway,
    address: SocketAddr,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>, h2::client::ResponseFuture) {
    let (send, connection) = connect(address).await;
    let mut send = within(send.ready()).await.unwrap();
    let (held, _) = send.send_request(request("/held"), true).unwrap();
    eventually("the request runs", || gateway.stage.held.load(Ordering::SeqCst) == 1).await;
    (send, connection, held)
}

/// A client that writes frames by hand, past its greeting.
struct Raw(Client);

impl Raw {
    async fn connect(address: SocketAddr, settings: &[u8]) -> Raw {
        let mut client = Client::connect(address).await;
        client.send([PREFACE.as_slice(), &frame(SETTINGS, 0, 0, settings)].concat()).await;
        Raw(client)
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.send(frame(kind, flags, stream, payload)).await;
    }

    /// Sends many frames, as far as the gateway reads them.
    async fn flood(&mut self, frames: &[u8]) {
        let _ = tokio::time::timeout(LONG, tokio::io::AsyncWriteExt::write_all(&mut self.0.io, frames)).await;
    }

    /// The next frame: kind, stream, payload.
    async fn frame(&mut self) -> (u8, u32, Vec<u8>) {
        let head = self.0.take(9).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        (head[3], stream, self.0.take(length).await)
    }

    /// The error code of the GOAWAY that ends the connection.
    async fn goaway(&mut self) -> u32 {
        loop {
            let (kind, _, payload) = self.frame().await;
            if kind == GOAWAY {
                return u32::from_be_bytes(payload[4..8].try_into().unwrap());
            }
        }
    }

    /// Reads until a response begins on `stream`.
    async fn answered(&mut self, stream: u32) {
        loop {
            let (kind, on, _) = self.frame().await;
            assert!(kind != GOAWAY, "the connection is being closed");
            if kind == HEADERS && on == stream {
                return;
            }
        }
    }

    /// Reads until `stream` is reset.
    async fn reset(&mut self, stream: u32) {
        loop {
            let (kind, on, _) = self.frame().await;
            assert!(kind != GOAWAY, "the connection is being closed");
            if kind == RST_STREAM && on == stream {
                return;
            }
        }
    }

    async fn expect_calm_down(mut self) {
        assert_eq!(self.goaway().await, ENHANCE_YOUR_CALM);
        self.0.rest().await;
    }
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_side_by_side() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let (mut send, _connection) = connect(address).await;
    let mut ready = within(send.clone().ready()).await.unwrap();
    let (held, _) = ready.send_request(request("/held"), true).unwrap();
    eventually("the first request runs", || gateway.stage.held.load(Ordering::SeqCst) == 1).await;
    assert_eq!(get(&mut send, "/second").await, "/second");
    gateway.stage.gate.add_permits(1);
    assert_eq!(body(within(held).await.unwrap()).await, "released");
    assert!(get(&mut send, "/info").await.starts_with("peer=127.0.0.1:"));
}

#[tokio::test]
async fn a_request_body_and_a_response_beyond_all_windows_pass() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let (send, _connection) = connect(address).await;
    let mut ready = within(send.clone().ready()).await.unwrap();
    let (response, mut upload) = ready.send_request(request("/length"), false).unwrap();
    let mut left = 3_000_000;
    while left > 0 {
        upload.reserve_capacity(left);
        let capacity = within(std::future::poll_fn(|cx| upload.poll_capacity(cx))).await.unwrap().unwrap();
        let part = capacity.min(left);
        upload.send_data(Bytes::from(vec![b'x'; part]), part == left).unwrap();
        left -= part;
    }
    assert_eq!(body(within(response).await.unwrap()).await, "3000000");
    let mut send = send;
    assert_eq!(get(&mut send, "/large").await.len(), 4 * 1024 * 1024);
}

#[tokio::test]
async fn rfc_9113_6_8_draining_says_goaway_and_finishes_what_runs() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let (send, connection, held) = holding(&gateway, address).await;
    let stage = gateway.stage.clone();
    let drain = tokio::spawn(async move { gateway.downstream.drain(LONG).await });
    refused(address).await;
    stage.gate.add_permits(1);
    assert_eq!(body(within(held).await.unwrap()).await, "released");
    drop(send);
    within(connection).await.unwrap().unwrap();
    assert_eq!(within(drain).await.unwrap(), 0);
}

/// Until nothing is accepted any more.
async fn refused(address: SocketAddr) {
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(refused).await;
}

#[tokio::test]
async fn rfc_9113_6_8_a_connection_that_begins_while_the_port_drains_is_told_at_once() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    eventually("it is accepted", || gateway.downstream.connections() == 1).await;
    let drain = tokio::spawn(async move { gateway.downstream.drain(LONG).await });
    refused(address).await;
    client.send([PREFACE.as_slice(), &frame(SETTINGS, 0, 0, &[])].concat()).await;
    assert_eq!(Raw(client).goaway().await, 0);
    assert_eq!(within(drain).await.unwrap(), 0);
}

/// The payload of the PING after whose answer h2 takes no more streams.
const LAST_PING: &[u8] = &[0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

#[tokio::test]
async fn rfc_9113_6_8_requests_that_are_on_their_way_when_goaway_comes_are_answered() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut raw = Raw::connect(address, &[]).await;
    raw.send(HEADERS, END_HEADERS | END_STREAM, 1, GET_ROOT).await;
    raw.answered(1).await;
    let drain = tokio::spawn(async move { gateway.downstream.drain(LONG).await });
    assert_eq!(raw.goaway().await, 0);
    // Clients answer a PING before what waits to be written.
    raw.send(PING, ACK, 0, LAST_PING).await;
    raw.send(HEADERS, END_HEADERS | END_STREAM, 3, GET_ROOT).await;
    raw.answered(3).await;
    // Then comes the last word.
    loop {
        let (kind, _, payload) = raw.frame().await;
        if kind == PING {
            raw.send(PING, ACK, 0, &payload).await;
        }
        if kind == GOAWAY && payload[..4] == 3_u32.to_be_bytes() {
            break;
        }
    }
    assert_eq!(within(drain).await.unwrap(), 0);
}

#[tokio::test]
async fn draining_has_the_patience_that_it_is_given_and_not_the_listeners() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.drain = Duration::from_millis(1)));
    let (send, connection, held) = holding(&gateway, address).await;
    let stage = gateway.stage.clone();
    let drain = tokio::spawn(async move { gateway.downstream.drain(LONG).await });
    refused(address).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.gate.add_permits(1);
    assert_eq!(body(within(held).await.unwrap()).await, "released");
    drop(send);
    within(connection).await.unwrap().unwrap();
    assert_eq!(within(drain).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_that_is_cut_at_the_drains_deadline_is_counted() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.drain = Duration::from_millis(1)));
    let (_send, _connection, held) = holding(&gateway, address).await;
    assert_eq!(within(gateway.downstream.drain(Duration::from_millis(300))).await, 1);
    assert_eq!(gateway.metrics.timeout_hits("drain"), 1);
    assert!(within(held).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_that_does_not_leave_is_closed_before_the_drain_is_over() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut raw = Raw::connect(address, &[]).await;
    raw.send(HEADERS, END_HEADERS | END_STREAM, 1, GET_ROOT).await;
    raw.answered(1).await;
    assert_eq!(within(gateway.downstream.drain(Duration::from_secs(2))).await, 0);
    raw.0.rest().await;
}

#[tokio::test]
async fn an_idle_connection_is_told_and_closed_after_keep_alive() {
    let (_gateway, address) = Gateway::plain(edge(|e| e.timeouts.keep_alive = Duration::from_millis(60)));
    let (mut send, connection) = connect(address).await;
    assert_eq!(get(&mut send, "/x").await, "/x");
    within(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_its_longest_life_a_connection_is_told_and_what_runs_is_finished() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.connection_max = Some(Duration::from_millis(60))));
    let (send, connection) = connect(address).await;
    let mut ready = within(send.clone().ready()).await.unwrap();
    let (held, _) = ready.send_request(request("/held"), true).unwrap();
    eventually("the age is counted", || gateway.metrics.timeout_hits("connection_max") == 1).await;
    gateway.stage.gate.add_permits(1);
    assert_eq!(body(within(held).await.unwrap()).await, "released");
    within(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_outlasts_draining_after_goaway_is_cut() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.timeouts.connection_max = Some(Duration::from_millis(60));
        e.timeouts.drain = Duration::from_millis(60);
    }));
    let (send, _connection) = connect(address).await;
    let mut ready = within(send.clone().ready()).await.unwrap();
    let (held, _) = ready.send_request(request("/held"), true).unwrap();
    assert!(within(held).await.is_err());
    drop(gateway);
}

#[tokio::test]
async fn a_panic_while_a_request_is_answered_takes_its_stream_and_no_other() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let (mut send, _connection) = connect(address).await;
    let mut ready = within(send.clone().ready()).await.unwrap();
    let (panics, _) = ready.send_request(request("/panic"), true).unwrap();
    assert!(within(panics).await.is_err());
    eventually("the panic is counted", || gateway.metrics.restarts_of("request") == 1).await;
    assert_eq!(get(&mut send, "/after").await, "/after");
}

#[tokio::test]
async fn cve_2023_44487_rapid_resets_are_told_to_calm_down() {
    let (gateway, address) = Gateway::plain(edge(|e| e.http2.resets = 50));
    let mut raw = Raw::connect(address, &[]).await;
    let mut flood = Vec::new();
    for n in 0..200 {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, GET_ROOT));
        flood.extend(frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
    }
    raw.flood(&flood).await;
    raw.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("resets"), 1);
    assert!(gateway.seen() <= 51, "{}", gateway.seen());
}

#[tokio::test]
async fn frames_that_ask_for_work_and_carry_nothing_are_told_to_calm_down() {
    let floods: [(&str, Vec<u8>); 5] = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(0x2, 0, 1, &[0, 0, 0, 0, 16])),
        ("an unknown type", frame(0xfa, 0, 0, &[1, 2, 3])),
        ("a window opened by one", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ];
    for (name, one) in floods {
        let (gateway, address) = Gateway::plain(edge(|e| e.http2.control_frames = 40));
        let mut raw = Raw::connect(address, &[]).await;
        raw.flood(&one.repeat(200)).await;
        raw.expect_calm_down().await;
        assert_eq!(gateway.metrics.limit_hits("control_frames"), 1, "{name}");
    }
}

#[tokio::test]
async fn rustsec_2026_0258_empty_data_frames_are_told_to_calm_down() {
    let (gateway, address) = Gateway::plain(edge(|e| e.http2.control_frames = 40));
    let mut raw = Raw::connect(address, &[]).await;
    raw.send(HEADERS, END_HEADERS, 1, GET_ROOT).await;
    raw.flood(&frame(DATA, 0, 1, &[]).repeat(200)).await;
    raw.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("control_frames"), 1);
}

#[tokio::test]
async fn cve_2024_27316_a_header_block_of_many_continuations_expect_calm_down() {
    let (gateway, address) = Gateway::plain(edge(|e| e.http2.continuations = 4));
    let mut raw = Raw::connect(address, &[]).await;
    raw.send(HEADERS, END_STREAM, 1, GET_ROOT).await;
    raw.flood(&frame(CONTINUATION, 0, 1, &[]).repeat(10)).await;
    raw.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("continuations"), 1);
}

#[tokio::test]
async fn a_header_block_that_drips_has_one_deadline() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.timeouts.request_headers = Duration::from_millis(150);
    }));
    let mut raw = Raw::connect(address, &[]).await;
    // A frame that says it has 10,000 bytes, of which one comes now and then.
    raw.0.send([0, 0x27, 0x10, HEADERS, END_HEADERS | END_STREAM, 0, 0, 0, 1]).await;
    let drip = async {
        while gateway.metrics.timeout_hits("request_headers") == 0 {
            let _ = raw.0.io.try_write(&GET_ROOT[..1]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(drip).await;
    raw.expect_calm_down().await;
}

#[tokio::test]
async fn rfc_9113_3_4_a_preface_that_is_not_finished_is_closed() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.request_headers = Duration::from_millis(50)));
    let mut client = Client::connect(address).await;
    client.send(&PREFACE[..20]).await;
    assert!(client.rest().await.starts_with(b"HTTP/1.1 408 "));
    assert_eq!(gateway.metrics.timeout_hits("request_headers"), 1);
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_after_keep_alive() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.keep_alive = Duration::from_millis(50)));
    let mut client = Client::connect(address).await;
    client.send(PREFACE).await;
    client.rest().await;
    eventually("the connection is closed", || gateway.downstream.connections() == 0).await;
}

/// `:method POST`, `:path /length`.
fn post_length() -> Vec<u8> {
    [&[0x83, 0x86, 0x41, 0x01, b'a', 0x44, 0x07], b"/length".as_slice()].concat()
}

#[tokio::test]
async fn a_body_that_drips_costs_its_request_and_no_other() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.timeouts.body_idle = Duration::from_secs(1);
        e.timeouts.body_min_rate = 1_000_000;
    }));
    let mut raw = Raw::connect(address, &[]).await;
    raw.send(HEADERS, END_HEADERS, 1, &post_length()).await;
    let drip = async {
        while gateway.metrics.timeout_hits("body_min_rate") == 0 {
            let _ = raw.0.io.try_write(&frame(DATA, 0, 1, b"x"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(drip).await;
    raw.send(HEADERS, END_HEADERS | END_STREAM, 3, GET_ROOT).await;
    raw.answered(3).await;
}

#[tokio::test]
async fn a_body_that_stops_costs_its_request_and_no_other() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.body_idle = Duration::from_millis(50)));
    let (mut send, _connection) = connect(address).await;
    let mut ready = within(send.clone().ready()).await.unwrap();
    let (stopped, mut upload) = ready.send_request(request("/length"), false).unwrap();
    upload.send_data(Bytes::from_static(b"x"), false).unwrap();
    // What is answered is the engine's matter; here it is told, and not kept waiting.
    let told = within(stopped).await;
    assert!(told.is_err() || told.is_ok_and(|response| response.status().is_client_error()));
    assert_eq!(get(&mut send, "/after").await, "/after");
    assert_eq!(gateway.metrics.limit_hits("slow_bodies"), 0);
}

#[tokio::test]
async fn a_client_that_lives_by_slow_bodies_is_told_to_calm_down() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.body_idle = Duration::from_millis(50)));
    let mut raw = Raw::connect(address, &[]).await;
    for n in 0..40 {
        raw.send(HEADERS, END_HEADERS, 2 * n + 1, &post_length()).await;
    }
    raw.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("slow_bodies"), 1);
}

#[tokio::test]
async fn a_grpc_call_may_pause_for_longer_than_a_body() {
    let (_gateway, address) = Gateway::plain(edge(|e| e.timeouts.body_idle = Duration::from_millis(20)));
    let (send, _connection) = connect(address).await;
    let mut ready = within(send.clone().ready()).await.unwrap();
    let mut call = request("/length");
    call.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let (response, mut upload) = ready.send_request(call, false).unwrap();
    upload.send_data(Bytes::from_static(b"one"), false).unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    upload.send_data(Bytes::from_static(b"two"), true).unwrap();
    assert_eq!(body(within(response).await.unwrap()).await, "6");
}

#[tokio::test]
async fn responses_that_wait_behind_shut_windows_are_bounded() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.timeouts.body_idle = Duration::from_millis(60);
        e.http2.send_buffer = 256 * 1024;
    }));
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    let mut raw = Raw::connect(address, &[0, 4, 0, 0, 0, 0]).await;
    let large = [&[0x82, 0x86, 0x41, 0x01, b'a', 0x44, 0x06], b"/large".as_slice()].concat();
    for n in 0..10 {
        raw.send(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &large).await;
    }
    raw.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("send_buffer"), 1);
}

fn get_large() -> Vec<u8> {
    [&[0x82, 0x86, 0x41, 0x01, b'a', 0x44, 0x06], b"/large".as_slice()].concat()
}

#[tokio::test]
async fn a_window_opened_by_drips_does_not_hold_a_response_for_ever_and_costs_no_other() {
    let (_gateway, address) = Gateway::plain(edge(|e| e.timeouts.stream_idle = Duration::from_millis(150)));
    let mut raw = Raw::connect(address, &[0, 4, 0, 0, 0, 0]).await;
    raw.send(HEADERS, END_HEADERS | END_STREAM, 1, &get_large()).await;
    for _ in 0..30 {
        raw.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    raw.reset(1).await;
    raw.send(HEADERS, END_HEADERS | END_STREAM, 3, GET_ROOT).await;
    raw.answered(3).await;
}

#[tokio::test]
async fn of_all_connections_the_one_that_leaves_most_unread_is_closed_first() {
    let options = DownstreamOptions { workers: 1, max_send_bytes: 256 * 1024, ..DownstreamOptions::default() };
    let mut gateway = Gateway::with(options);
    let edge = Arc::new(edge(|e| e.timeouts.body_idle = Duration::from_millis(50)));
    let address = gateway.open(FIRST, Protocol::Http, vec![listener("any", None, None, &edge)]);
    let mut worst = Raw::connect(address, &[0, 4, 0, 0, 0, 0]).await;
    for n in 0..3 {
        worst.send(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_large()).await;
    }
    let held = gateway.metrics.held("send_bytes");
    eventually("what it leaves unread is counted", || held.get() == 3 * 64 * 1024).await;
    let mut other = Raw::connect(address, &[0, 4, 0, 0, 0, 0]).await;
    for n in 0..2 {
        other.send(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_large()).await;
    }
    worst.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("total_send_bytes"), 1);
    other.send(HEADERS, END_HEADERS | END_STREAM, 5, GET_ROOT).await;
    other.answered(5).await;
}

#[tokio::test]
async fn responses_that_wait_for_a_full_socket_are_counted_as_those_behind_shut_windows() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.body_idle = Duration::from_millis(50)));
    // Windows as wide as they can be, and nothing is read.
    let mut raw = Raw::connect(address, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    raw.send(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()).await;
    for n in 0..3 {
        let huge = [&[0x82, 0x86, 0x41, 0x01, b'a', 0x44, 0x05], b"/huge".as_slice()].concat();
        raw.send(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &huge).await;
    }
    let held = gateway.metrics.held("send_bytes");
    eventually("what waits is counted", || held.get() == 3 * 64 * 1024).await;
    drop(raw);
    eventually("and given back", || held.get() == 0).await;
}

#[tokio::test]
async fn windows_are_announced_as_they_are_configured() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut raw = Raw::connect(address, &[]).await;
    let (kind, _, settings) = raw.frame().await;
    assert_eq!(kind, SETTINGS);
    let setting = |id: u16| settings.chunks(6).find(|s| s[..2] == id.to_be_bytes()).map(|s| s[2..].to_vec());
    assert_eq!(setting(4), Some(65_536_u32.to_be_bytes().to_vec()), "SETTINGS_INITIAL_WINDOW_SIZE");
    assert_eq!(setting(3), Some(100_u32.to_be_bytes().to_vec()), "SETTINGS_MAX_CONCURRENT_STREAMS");
    loop {
        let (kind, stream, payload) = raw.frame().await;
        if kind == WINDOW_UPDATE {
            assert_eq!((stream, payload), (0, (1024 * 1024_u32 - 65_535).to_be_bytes().to_vec()));
            break;
        }
    }
}

#[tokio::test]
async fn rfc_9113_5_1_2_streams_above_the_limit_are_counted() {
    let (gateway, address) = Gateway::plain(edge(|e| e.http2.max_concurrent_streams = 2));
    let mut raw = Raw::connect(address, &[]).await;
    for n in 0..3 {
        raw.send(HEADERS, END_HEADERS, 2 * n + 1, &post_length()).await;
    }
    raw.reset(5).await;
    // What the client has read may not have been counted yet.
    eventually("it is counted", || gateway.metrics.limit_hits("max_concurrent_streams") == 1).await;
}

#[tokio::test]
async fn after_so_many_requests_a_connection_is_told_and_ends() {
    let (gateway, address) = Gateway::plain(edge(|e| e.limits.requests_per_connection = 2));
    let (mut send, connection) = connect(address).await;
    for path in ["/1", "/2"] {
        assert_eq!(get(&mut send, path).await, path);
    }
    within(connection).await.unwrap().unwrap();
    assert_eq!(gateway.metrics.limit_hits("requests_per_connection"), 1);
}

/// A header section of one long field that HPACK knows after the first: 4,000 bytes for one.
fn many_large_header_sections(streams: u32) -> Vec<u8> {
    // Nothing else enters the dynamic table, so that the field stays at its index, 62.
    let root = [0x82, 0x86, 0x84, 0x01, 0x01, b'a'];
    let mut first = [root.as_slice(), &[0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e]].concat();
    first.extend([b'y'; 4000]);
    let again = [root.as_slice(), &[0xbe; 14]].concat();
    let held = [&[0x82, 0x86, 0x01, 0x01, b'a', 0x04, 0x05], b"/held".as_slice(), &[0xbe; 14]].concat();
    let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &first);
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, &again));
    for n in 0..streams {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 5, &held));
    }
    bytes
}

#[tokio::test]
async fn header_sections_that_a_few_bytes_make_large_are_bounded_for_a_connection() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut raw = Raw::connect(address, &[]).await;
    raw.flood(&many_large_header_sections(90)).await;
    raw.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("header_bytes"), 1);
}

#[tokio::test]
async fn a_header_list_above_the_limit_is_counted_although_it_is_the_codec_that_answers_it() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut raw = Raw::connect(address, &[]).await;
    let root = [0x82, 0x86, 0x84, 0x01, 0x01, b'a'];
    raw.flood(&many_large_header_sections(0)).await;
    for stream in [5, 7] {
        raw.send(HEADERS, END_HEADERS | END_STREAM, stream, &[root.as_slice(), &[0xbe; 20]].concat()).await;
        raw.answered(stream).await;
    }
    eventually("both are counted", || gateway.metrics.limit_hits("header_bytes") == 2).await;
    assert_eq!(gateway.seen(), 2);
}

#[tokio::test]
async fn header_sections_are_bounded_for_all_connections_together_and_the_one_that_holds_most_is_closed() {
    let options = DownstreamOptions { workers: 1, max_header_bytes: 250_000, ..DownstreamOptions::default() };
    let mut gateway = Gateway::with(options);
    let edge = Arc::new(Edge::default());
    let address = gateway.open(FIRST, Protocol::Http, vec![listener("any", None, None, &edge)]);
    let mut worst = Raw::connect(address, &[]).await;
    worst.flood(&many_large_header_sections(3)).await;
    eventually("three are held", || gateway.stage.held.load(Ordering::SeqCst) == 3).await;
    let mut other = Raw::connect(address, &[]).await;
    other.flood(&many_large_header_sections(2)).await;
    worst.expect_calm_down().await;
    assert_eq!(gateway.metrics.limit_hits("total_header_bytes"), 1);
    eventually("the other one is served", || gateway.stage.held.load(Ordering::SeqCst) == 5).await;
    gateway.stage.gate.add_permits(5);
    other.answered(5).await;
}

#[tokio::test]
async fn malformed_requests_use_up_the_connections_patience() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut raw = Raw::connect(address, &[]).await;
    // Without :authority and Host.
    let mut flood = Vec::new();
    for n in 0..64 {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &GET_ROOT[..3]));
    }
    raw.flood(&flood).await;
    raw.expect_calm_down().await;
    assert_eq!(gateway.seen(), 0);
    assert_eq!(gateway.metrics.limit_hits("malformed_streams"), 1);
}

#[tokio::test]
async fn an_ordinary_client_that_opens_windows_for_what_it_reads_is_left_alone() {
    let (gateway, address) = Gateway::plain(edge(|e| e.http2.control_frames = 20));
    let (mut send, _connection) = connect(address).await;
    for _ in 0..100 {
        assert_eq!(get(&mut send, "/x").await, "/x");
    }
    assert_eq!(get(&mut send, "/large").await.len(), 4 * 1024 * 1024);
    assert_eq!(gateway.metrics.limit_hits("control_frames"), 0);
}
