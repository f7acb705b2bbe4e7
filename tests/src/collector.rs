//! A collector of traces: it takes OTLP over HTTP in protobuf, and keeps each span.

use crate::backend::{self, Answer, Backend, Seen};
use crate::certificate::Leaf;
use crate::wait;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as Message;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// A span as a test looks at it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Ids are in hex, as `traceparent` has them.
    pub trace: String,
    pub id: String,
    /// Empty where it has none.
    pub parent: String,
    pub state: String,
    pub kind: SpanKind,
    pub name: String,
    /// Numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// Its status is Error.
    pub failed: bool,
    /// Nanoseconds since 1970.
    pub began: u64,
    pub ended: u64,
}

impl Span {
    /// An attribute; empty where it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// How one export is answered.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// Nothing of it is kept.
    Refuse(StatusCode),
    /// Taken, but for so many spans.
    TakeBut(i64),
}

#[derive(Default)]
struct Taken {
    spans: Vec<Span>,
    /// Every export as it came.
    raw: Vec<Bytes>,
    resource: BTreeMap<String, String>,
    script: VecDeque<Script>,
}

pub struct Collector {
    backend: Backend,
    taken: Arc<Mutex<Taken>>,
}

impl Collector {
    pub async fn start() -> Collector {
        Collector::on_port(0).await
    }

    pub async fn on_port(port: u16) -> Collector {
        let taken = Arc::default();
        Collector { backend: Backend::on_port(port, handler(&taken)).await, taken }
    }

    pub async fn with_tls(leaf: &Leaf) -> Collector {
        let taken = Arc::default();
        Collector { backend: Backend::with_tls(leaf, handler(&taken)).await, taken }
    }

    pub fn address(&self) -> SocketAddr {
        self.backend.address
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.backend.address)
    }

    /// Answers the next exports so, and those after them with 200.
    pub fn answer(&self, script: impl IntoIterator<Item = Script>) {
        self.taken.lock().unwrap().script = script.into_iter().collect();
    }

    /// The exports' heads.
    pub fn seen(&self) -> Vec<Seen> {
        self.backend.seen()
    }

    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().unwrap().spans.clone()
    }

    /// The exports' bodies, refused ones too.
    pub fn raw(&self) -> Vec<Bytes> {
        self.taken.lock().unwrap().raw.clone()
    }

    /// What the last export said of who sent it.
    pub fn resource(&self) -> BTreeMap<String, String> {
        self.taken.lock().unwrap().resource.clone()
    }

    /// Waits until some span satisfies `wanted`, and gives all spans of its trace: a request's come in one export.
    pub async fn trace(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        wait::until(what, || async {
            let spans = self.spans();
            let trace = spans.iter().find(|span| wanted(span))?.trace.clone();
            Some(spans.into_iter().filter(|span| span.trace == trace).collect())
        })
        .await
    }
}

fn handler(taken: &Arc<Mutex<Taken>>) -> backend::Handler {
    let taken = taken.clone();
    Arc::new(move |request| {
        let taken = taken.clone();
        Box::pin(async move { take(request, &taken).await })
    })
}

async fn take(request: Request<Incoming>, taken: &Mutex<Taken>) -> Answer {
    let (head, body) = request.into_parts();
    if head.method != "POST" || head.uri.path() != "/v1/traces" {
        return backend::text(StatusCode::NOT_FOUND, "POST /v1/traces");
    }
    if head.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/x-protobuf") {
        return backend::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/x-protobuf");
    }
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return backend::text(StatusCode::BAD_REQUEST, "the body broke off");
    };
    let Ok(export) = ExportTraceServiceRequest::decode(body.clone()) else {
        return backend::text(StatusCode::BAD_REQUEST, "not an export");
    };
    let mut taken = taken.lock().unwrap();
    taken.raw.push(body);
    let rejected = match taken.script.pop_front() {
        Some(Script::Refuse(status)) => {
            let mut answer = backend::text(status, "refused");
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("0"));
            return answer;
        }
        Some(Script::TakeBut(rejected)) => rejected,
        None => 0,
    };
    for of_resource in export.resource_spans {
        taken.resource = attributes(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        taken.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(span));
    }
    let partial_success = (rejected > 0)
        .then(|| ExportTracePartialSuccess { rejected_spans: rejected, error_message: "no room".to_owned() });
    let body = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    let mut answer = Answer::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    answer
}

fn span(message: Message) -> Span {
    Span {
        trace: hex(&message.trace_id),
        id: hex(&message.span_id),
        parent: hex(&message.parent_span_id),
        state: message.trace_state,
        kind: SpanKind::try_from(message.kind).expect("a kind of span"),
        name: message.name,
        attributes: attributes(message.attributes),
        failed: message.status.is_some_and(|status| status.code == 2),
        began: message.start_time_unix_nano,
        ended: message.end_time_unix_nano,
    }
}

fn attributes(list: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>) -> BTreeMap<String, String> {
    let pair = |key_value: opentelemetry_proto::tonic::common::v1::KeyValue| {
        let text = match key_value.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{}: {other:?}", key_value.key),
        };
        (key_value.key, text)
    };
    list.into_iter().map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
