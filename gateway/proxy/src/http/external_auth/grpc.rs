//! The protocol GRPC of the filter: Envoy's `envoy.service.auth.v3.Authorization/Check`.

use super::proto::{self, CheckRequest, CheckResponse, HeaderValueOption};
use super::{Allowed, Change, Denied, Failed, How, Verdict, belongs_to_connection};
use crate::downstream::ConnectionInfo;
use crate::http::context::RequestContext;
use crate::http::{names, plugins};
use crate::outbound::Answer;
use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::uri::PathAndQuery;
use ::http::{Error, Method, StatusCode};
use bytes::{BufMut, Bytes, BytesMut};
use pingora_proxy::Session;
use prost::Message;
use sluice_wasm::{OutboundRequest, OwnBounds};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(super) fn question(
    exchange: &Session,
    ctx: &RequestContext,
    passed: &[HeaderName],
    body: Bytes,
    patience: Duration,
    until: Instant,
) -> Result<OutboundRequest, Error> {
    let request = exchange.req_header();
    let connection = exchange.digest().and_then(ConnectionInfo::of);
    let text = |name: &HeaderName| request.headers.get(name).map(joined_one).unwrap_or_default();
    let size = request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let (body, raw_body) = match std::str::from_utf8(&body) {
        Ok(text) => (text.to_owned(), Bytes::new()),
        Err(_) => (String::new(), body.clone()),
    };
    let http = proto::HttpRequest {
        id: text(&names::X_REQUEST_ID),
        method: request.method.to_string(),
        headers: fields(&request.headers, passed),
        path: request.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
        host: text(&header::HOST),
        scheme: if ctx.tls { "https" } else { "http" }.to_owned(),
        size: size.unwrap_or(-1),
        protocol: plugins::protocol(request.version).to_owned(),
        body,
        raw_body,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ctx.started.elapsed());
    let time = proto::Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
    };
    // The client as trusted proxies tell it has no port that is known.
    let port = connection.map(|info| info.peer).filter(|peer| peer.ip().to_canonical() == ctx.client);
    let source = SocketAddr::new(ctx.client, port.map_or(0, |peer| peer.port()));
    let sni = connection.and_then(|info| info.tls.as_ref()).and_then(|tls| tls.sni.as_deref());
    let attributes = proto::AttributeContext {
        source: Some(peer(source)),
        destination: connection.map(|info| peer(info.local)),
        request: Some(proto::Request { time: Some(time), http: Some(http) }),
        tls_session: sni.map(|sni| proto::TlsSession { sni: sni.to_owned() }),
    };
    let message = CheckRequest { attributes: Some(attributes) };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(names::GRPC_TIMEOUT, HeaderValue::try_from(format!("{}m", patience.as_millis().max(1)))?);
    Ok(OutboundRequest {
        method: Method::POST,
        target: PathAndQuery::from_static(proto::CHECK),
        authority: None,
        headers,
        body: framed(&message),
        until,
        max_body: super::MAX_ANSWER,
        own: OwnBounds::default(),
    })
}

/// A message that is not compressed (gRPC over HTTP/2, Length-Prefixed-Message).
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for all of it.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn peer(address: SocketAddr) -> proto::Peer {
    let socket_address =
        proto::SocketAddress { address: address.ip().to_canonical().to_string(), port_value: address.port().into() };
    proto::Peer { address: Some(proto::Address { socket_address: Some(socket_address) }) }
}

fn joined_one(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The fields that are sent: those that are named, or all of them; of one name joined (RFC 9110, section 5.3).
fn fields(headers: &HeaderMap, passed: &[HeaderName]) -> HashMap<String, String> {
    let mut fields = HashMap::new();
    let names = headers.keys().filter(|name| passed.is_empty() || passed.contains(name));
    for name in names {
        let between = if *name == header::COOKIE { "; " } else { "," };
        let values: Vec<String> = headers.get_all(name).iter().map(joined_one).collect();
        fields.insert(name.as_str().to_owned(), values.join(between));
    }
    fields
}

pub(super) fn verdict(answer: &Answer) -> Result<Verdict, Failed> {
    if answer.status != StatusCode::OK {
        return Err(Failed::Status(answer.status));
    }
    // An answer without a message has its status in its one header section.
    let status = answer.trailers.get(&names::GRPC_STATUS).or_else(|| answer.headers.get(&names::GRPC_STATUS));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(other) => return Err(Failed::Grpc(String::from_utf8_lossy(other).into_owned())),
        None => return Err(Failed::Message("the call did not end with a status")),
    }
    let message = match answer.body.split_at_checked(5) {
        Some((&[0, a, b, c, d], rest)) => rest.get(..u32::from_be_bytes([a, b, c, d]) as usize),
        Some(_) => return Err(Failed::Message("it is compressed")),
        None => None,
    };
    let message = message.ok_or(Failed::Message("it is cut short"))?;
    let answer = CheckResponse::decode(message).map_err(|_| Failed::Message("it cannot be decoded"))?;
    Ok(judge(answer))
}

/// Code 0, which a status has by default, allows; every other one refuses.
fn judge(answer: CheckResponse) -> Verdict {
    if answer.status.is_none_or(|status| status.code == 0) {
        let ok = answer.ok.unwrap_or_default();
        let remove = ok.headers_to_remove.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok());
        return Verdict::Allowed(Allowed {
            remove: remove.filter(|name| !belongs_to_connection(name)).collect(),
            request: changes(&ok.headers),
            response: changes(&ok.response_headers_to_add),
        });
    }
    let denied = answer.denied.unwrap_or_default();
    let status = denied.status.and_then(|status| StatusCode::from_u16(u16::try_from(status.code).ok()?).ok());
    let status = status.filter(|status| status.as_u16() >= 300).unwrap_or(StatusCode::FORBIDDEN);
    let mut headers = HeaderMap::new();
    for Change { name, value, how } in changes(&denied.headers) {
        if how == How::Add {
            headers.append(name, value);
        } else {
            headers.insert(name, value);
        }
    }
    Verdict::Denied(Denied { status, headers, body: denied.body.into() })
}

/// What cannot be written, or must not, is left out.
fn changes(options: &[HeaderValueOption]) -> Vec<Change> {
    let change = |option: &HeaderValueOption| {
        let header = option.header.as_ref()?;
        let name = HeaderName::try_from(header.key.as_str()).ok().filter(|name| !belongs_to_connection(name))?;
        let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        let how = match (option.append.as_ref().map(|append| append.value), option.append_action) {
            (Some(true), _) => How::Add,
            (Some(false), _) | (None, 0 | 2) => How::Set,
            (None, 1) => How::IfAbsent,
            (None, 3) => How::IfPresent,
            // Of a newer protocol.
            (None, _) => How::Set,
        };
        Some(Change { name, value: HeaderValue::from_bytes(bytes).ok()?, how })
    };
    options.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
        let header = proto::HeaderValue { key: key.into(), value: value.into(), raw_value: Bytes::new() };
        let append = append.map(|value| proto::BoolValue { value });
        HeaderValueOption { header: Some(header), append, append_action }
    }

    fn answer(message: &CheckResponse, status: &'static str) -> Answer {
        let mut answer = Answer::of(StatusCode::OK, HeaderMap::new(), framed(message));
        answer.trailers.insert(names::GRPC_STATUS, HeaderValue::from_static(status));
        answer
    }

    #[test]
    fn an_allowed_request_is_changed_as_the_service_says_but_for_what_frames_it() {
        let ok = proto::OkHttpResponse {
            headers: vec![
                option("X-User", "jo", None, 0),
                option("x-group", "a", Some(true), 0),
                option("x-new", "1", None, 1),
                option("content-length", "7", None, 0),
                option(":path", "/admin", None, 0),
                option("x-bad", "a\nb", None, 0),
            ],
            headers_to_remove: vec!["Authorization".into(), "host".into(), ":path".into()],
            response_headers_to_add: vec![option("x-seen", "1", None, 0)],
        };
        let message = CheckResponse { status: Some(proto::Status { code: 0 }), ok: Some(ok), denied: None };
        let Ok(Verdict::Allowed(allowed)) = verdict(&answer(&message, "0")) else { panic!("it is allowed") };
        assert_eq!(allowed.remove, [header::AUTHORIZATION]);
        let request: Vec<_> = allowed.request.iter().map(|change| (change.name.as_str(), change.how)).collect();
        assert_eq!(request, [("x-user", How::Set), ("x-group", How::Add), ("x-new", How::IfAbsent)]);
        assert_eq!(allowed.response.len(), 1);
    }

    #[test]
    fn a_refusal_is_the_services_own_or_403() {
        let of = |denied| CheckResponse { status: Some(proto::Status { code: 16 }), ok: None, denied };
        let Ok(Verdict::Denied(plain)) = verdict(&answer(&of(None), "0")) else { panic!("it is denied") };
        assert_eq!((plain.status, plain.body.len()), (StatusCode::FORBIDDEN, 0));
        let own = proto::DeniedHttpResponse {
            status: Some(proto::HttpStatus { code: 401 }),
            headers: vec![option("www-authenticate", "Bearer", None, 0)],
            body: "sign in".into(),
        };
        let Ok(Verdict::Denied(own)) = verdict(&answer(&of(Some(own)), "0")) else { panic!("it is denied") };
        assert_eq!((own.status, &own.body[..]), (StatusCode::UNAUTHORIZED, &b"sign in"[..]));
        assert!(own.headers.contains_key("www-authenticate"));
        // A status that says all is well would be a lie.
        let well = proto::DeniedHttpResponse { status: Some(proto::HttpStatus { code: 200 }), ..Default::default() };
        let Ok(Verdict::Denied(well)) = verdict(&answer(&of(Some(well)), "0")) else { panic!("it is denied") };
        assert_eq!(well.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn whatever_is_no_whole_answer_is_a_failure() {
        let message = CheckResponse { status: Some(proto::Status { code: 0 }), ok: None, denied: None };
        assert!(matches!(verdict(&answer(&message, "14")), Err(Failed::Grpc(status)) if status == "14"));
        let whole = answer(&message, "0");
        let with = |body: &[u8]| Answer { body: Bytes::copy_from_slice(body), ..whole.clone() };
        for body in [&b""[..], b"\0\0", b"\0\0\0\0\x09ab", b"\x01\0\0\0\0", b"\0\0\0\0\x02\xff\xff"] {
            assert!(verdict(&with(body)).is_err(), "{body:?}");
        }
        assert!(verdict(&Answer { trailers: HeaderMap::new(), ..whole.clone() }).is_err(), "without a status");
        assert!(verdict(&Answer { status: StatusCode::BAD_GATEWAY, ..whole }).is_err());
    }

    #[test]
    fn fields_of_one_name_are_joined_and_only_those_that_are_named_are_sent() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("cookie", "a=b"), ("cookie", "c=d"), ("x-b", "3")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let all = fields(&headers, &[]);
        assert_eq!((all.len(), all["x-a"].as_str(), all["cookie"].as_str()), (3, "1,2", "a=b; c=d"));
        assert_eq!(fields(&headers, &[HeaderName::from_static("x-b")]).len(), 1);
    }
}
