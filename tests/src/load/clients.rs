//! One client a protocol. Each keeps its connection until the server announces its end.

use super::Target;
use super::report::{Kind, Records};
use crate::{Address, grpc, http2 as h2c, raw};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Longer than any answer takes here, and shorter than a test's patience.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub(super) struct Lane {
    pub(super) target: Target,
    pub(super) records: Arc<Records>,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) period: Duration,
    pub(super) offset: Duration,
}

impl Lane {
    fn ticks(&self) -> Interval {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + self.offset, self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// Waits for the next tick; false when the load is to stop.
    async fn tick(&mut self, ticks: &mut Interval) -> bool {
        tokio::select! {
            _ = ticks.tick() => !*self.stopped.borrow(),
            _ = self.stopped.changed() => false,
        }
    }

    async fn timed(&self, kind: Kind, request: impl Future<Output = Result<(), String>>) -> bool {
        let sent = Instant::now();
        let result = tokio::time::timeout(PATIENCE, request).await.unwrap_or_else(|_| Err("no answer in time".into()));
        let good = result.is_ok();
        self.records.record(kind, sent, result);
        good
    }
}

type Http1Sender = http1::SendRequest<Empty<Bytes>>;

async fn open_http1(stream: impl crate::raw::Wire + 'static) -> Result<Http1Sender, String> {
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| cause("handshake", &e))?;
    tokio::spawn(driver);
    Ok(sender)
}

async fn plain(to: Address) -> Result<TcpStream, String> {
    to.connect().await.map_err(|e| cause("connect", &e))
}

/// Whether the connection may be used again.
async fn exchange_http1(sender: &mut Http1Sender, target: &Target) -> Result<bool, String> {
    let request = Request::get(&target.path).header(header::HOST, &target.host).body(Empty::new());
    let request = request.expect("a valid request");
    let response = sender.send_request(request).await.map_err(|e| cause("request", &e))?;
    let (head, body) = response.into_parts();
    let closes = head.headers.get(header::CONNECTION).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
    let body = body.collect().await.map_err(|e| cause("body", &e))?.to_bytes();
    judge(target, head.status.as_u16(), &head.headers, &body)?;
    Ok(!closes)
}

fn judge(target: &Target, status: u16, headers: &http::HeaderMap, body: &[u8]) -> Result<(), String> {
    if status != 200 {
        return Err(format!("status {status}: {}", String::from_utf8_lossy(body)));
    }
    target.check.as_ref().map_or(Ok(()), |check| check(headers, body))
}

pub(super) async fn http1(mut lane: Lane) {
    let mut ticks = lane.ticks();
    let mut open: Option<Http1Sender> = None;
    while lane.tick(&mut ticks).await {
        // A connection that the server has closed meanwhile is replaced before anything is sent on it.
        if open.as_ref().is_some_and(Http1Sender::is_closed) {
            open = None;
            lane.records.replaced(Kind::Http1);
        }
        let mut keep = None;
        let target = lane.target.clone();
        let previous = open.take();
        lane.timed(Kind::Http1, async {
            let mut sender = match previous {
                Some(sender) => sender,
                None => open_http1(plain(target.http).await?).await?,
            };
            let usable = exchange_http1(&mut sender, &target).await?;
            keep = Some((sender, usable));
            Ok(())
        })
        .await;
        if let Some((mut sender, usable)) = keep {
            if usable && sender.ready().await.is_ok() {
                open = Some(sender);
            } else {
                lane.records.replaced(Kind::Http1);
            }
        }
    }
}

pub(super) async fn new_connections(mut lane: Lane) {
    let mut ticks = lane.ticks();
    let mut running = JoinSet::new();
    let mut tls = false;
    while lane.tick(&mut ticks).await {
        while running.try_join_next().is_some() {}
        tls = !tls;
        let lane = lane.clone();
        running.spawn(async move {
            let target = lane.target.clone();
            let kind = if tls { Kind::NewTls } else { Kind::New };
            lane.timed(kind, async {
                let client = if tls {
                    let config = target.tls.client(&["http/1.1"]);
                    raw::Client::connect_tls(target.https, &target.host, config).await
                } else {
                    raw::Client::connect(target.http).await
                };
                let client = client.map_err(|e| cause("connect", &e))?;
                let answer = raw::get_once(client, &target.host, &target.path).await;
                let answer = answer.map_err(|e| cause("request", &e))?;
                judge(&target, answer.status, &answer.header_map(), &answer.body)
            })
            .await;
        });
    }
    while running.join_next().await.is_some() {}
}

async fn open_http2(target: &Target) -> Result<h2c::Connection, String> {
    h2c::Connection::tls(target.https, &target.host, target.tls.client(&["h2"]))
        .await
        .map_err(|e| format!("HTTP/2 connect: {e:#}"))
}

pub(super) async fn http2(mut lane: Lane) {
    let mut ticks = lane.ticks();
    let mut open: Option<h2c::Connection> = None;
    while lane.tick(&mut ticks).await {
        let target = lane.target.clone();
        let records = lane.records.clone();
        let mut kept = open.take();
        let good = lane
            .timed(Kind::Http2, async {
                // A connection that was told to go takes no more requests: nothing was sent, so another one is opened.
                if let Some(connection) = &kept {
                    match exchange_http2(connection, &target).await? {
                        true => return Ok(()),
                        false => records.replaced(Kind::Http2),
                    }
                }
                let connection = kept.insert(open_http2(&target).await?);
                match exchange_http2(connection, &target).await? {
                    true => Ok(()),
                    false => Err("a new connection takes no requests".to_owned()),
                }
            })
            .await;
        open = kept.filter(|_| good);
    }
}

/// Whether the request was sent; then it was answered well.
async fn exchange_http2(connection: &h2c::Connection, target: &Target) -> Result<bool, String> {
    let request = connection.request("GET", &target.host, &target.path).body(()).expect("a valid request");
    match connection.exchange_unless_closing(request).await.map_err(|e| cause("request", &e))? {
        None => Ok(false),
        Some(response) => judge(target, response.status, &response.headers, &response.body).map(|()| true),
    }
}

pub(super) async fn grpc(mut lane: Lane) {
    let mut ticks = lane.ticks();
    let mut open: Option<(h2c::Connection, grpc::Call)> = None;
    let mut number = 0_u64;
    while lane.tick(&mut ticks).await {
        if let Some((connection, call)) = open.take() {
            if connection.going_away().await {
                // Told to go: what runs is finished in order, and its trailers must come.
                lane.records.replaced(Kind::Grpc);
                lane.timed(Kind::Grpc, finish(call)).await;
            } else {
                open = Some((connection, call));
            }
        }
        number += 1;
        let target = lane.target.clone();
        let previous = open.take();
        let kept = &mut open;
        lane.timed(Kind::Grpc, async {
            let (connection, mut call) = match previous {
                Some(open) => open,
                None => {
                    let connection = open_http2(&target).await?;
                    let call = grpc::Call::open(&connection, &target.host, &target.grpc_path).await;
                    (connection, call.map_err(|e| format!("gRPC open: {e:#}"))?)
                }
            };
            let message = format!("message {number}");
            let back = call.exchange(message.as_bytes()).await.map_err(|e| format!("gRPC message: {e:#}"))?;
            if back != message.as_bytes() {
                return Err(format!("gRPC gave {back:?} for {message:?}"));
            }
            *kept = Some((connection, call));
            Ok(())
        })
        .await;
    }
    if let Some((_connection, call)) = open {
        lane.timed(Kind::Grpc, finish(call)).await;
    }
}

async fn finish(call: grpc::Call) -> Result<(), String> {
    let trailers = call.finish().await.map_err(|e| format!("gRPC end: {e:#}"))?;
    match trailers.get("grpc-status") {
        Some(status) if status == "0" => Ok(()),
        other => Err(format!("grpc-status {other:?}")),
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn open_web_socket(target: &Target) -> Result<Socket, String> {
    let stream = plain(target.http).await?;
    let url = format!("ws://{}{}", target.host, target.web_socket_path);
    let (socket, _) =
        tokio_tungstenite::client_async(url, stream).await.map_err(|e| cause("WebSocket handshake", &e))?;
    Ok(socket)
}

pub(super) async fn web_socket(mut lane: Lane) {
    let mut ticks = lane.ticks();
    let mut open: Option<Socket> = None;
    let mut number = 0_u64;
    while lane.tick(&mut ticks).await {
        // What came between two messages can only be the server's Close.
        if let Some(mut socket) = open.take() {
            match futures::poll!(socket.next()) {
                std::task::Poll::Pending => open = Some(socket),
                std::task::Poll::Ready(Some(Ok(Message::Close(_)))) => lane.records.replaced(Kind::WebSocket),
                std::task::Poll::Ready(other) => {
                    lane.records.record(Kind::WebSocket, Instant::now(), Err(format!("WebSocket cut: {other:?}")));
                }
            }
        }
        number += 1;
        let target = lane.target.clone();
        let records = lane.records.clone();
        let previous = open.take();
        let kept = &mut open;
        lane.timed(Kind::WebSocket, async {
            let mut socket = match previous {
                Some(socket) => socket,
                None => open_web_socket(&target).await?,
            };
            let message = format!("message {number}");
            socket.send(Message::text(message.clone())).await.map_err(|e| cause("WebSocket send", &e))?;
            match socket.next().await {
                Some(Ok(Message::Text(text))) if text.ends_with(&message) => {
                    *kept = Some(socket);
                    Ok(())
                }
                // Close crossed our message: the server was told to go, and said so properly.
                Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1001 => {
                    records.replaced(Kind::WebSocket);
                    Ok(())
                }
                other => Err(format!("WebSocket gave {other:?} for {message:?}")),
            }
        })
        .await;
    }
    if let Some(mut socket) = open {
        // The other side's Close is not waited for: this is the end of the load.
        let _ = socket.close(None).await;
    }
}

fn cause(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
