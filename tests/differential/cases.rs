//! The requests that both gateways get, filter by filter.

use serde_json::{Value, json};

#[derive(Clone)]
pub(crate) enum Body {
    None,
    /// With its length.
    Whole(String),
    /// Without one.
    Pieces(Vec<String>),
    /// Each piece, and then the end, once the backend has the piece before.
    Gated(Vec<String>),
    /// One piece and trailers, over HTTP/2.
    Trailers(String),
}

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: Body,
    /// Over HTTP/2 on both sides alone.
    pub(crate) http2_only: bool,
}

impl Case {
    fn new(method: &'static str, path: &'static str) -> Case {
        let name = format!("{method} {path}");
        Case { name, method, path, fields: Vec::new(), body: Body::None, http2_only: false }
    }

    fn get(path: &'static str) -> Case {
        Case::new("GET", path)
    }

    fn post(path: &'static str, body: Body) -> Case {
        let kind = match &body {
            Body::None => "nothing".to_owned(),
            Body::Whole(text) => format!("{} bytes", text.len()),
            Body::Pieces(pieces) => format!("{} pieces", pieces.len()),
            Body::Gated(pieces) => format!("{} gated pieces", pieces.len()),
            Body::Trailers(_) => "trailers".to_owned(),
        };
        let case = Case::new("POST", path);
        Case { name: format!("{} of {kind}", case.name), body, ..case }
    }

    fn grpc(path: &'static str) -> Case {
        let message = String::from_utf8(sluice_tests::grpc::frame(b"message").to_vec()).expect("ASCII");
        let case = Case::post(path, Body::Pieces(vec![message]));
        let case = Case { name: format!("gRPC {path}"), http2_only: true, ..case };
        case.with("content-type", "application/grpc").with("te", "trailers")
    }

    /// Under this name the witness keeps what it notes.
    pub(crate) fn with_id(&self, id: &str) -> Case {
        let mut fields = self.fields.clone();
        fields.push(("x-case", id.to_owned()));
        Case { fields, ..self.clone() }
    }

    fn with(mut self, name: &'static str, value: &str) -> Case {
        if !matches!(name, "content-type" | "te") {
            self.name.push_str(&format!(" {name}={value}"));
        }
        self.fields.push((name, value.to_owned()));
        self
    }
}

pub(crate) struct Filter {
    pub(crate) name: &'static str,
    pub(crate) config: Value,
    pub(crate) cases: Vec<Case>,
}

fn whole(text: &str) -> Body {
    Body::Whole(text.to_owned())
}

fn pieces(pieces: &[&str]) -> Body {
    Body::Pieces(pieces.iter().map(|piece| (*piece).to_owned()).collect())
}

fn gated(pieces: &[&str]) -> Body {
    Body::Gated(pieces.iter().map(|piece| (*piece).to_owned()).collect())
}

/// What every filter gets, whatever it is for.
fn ordinary() -> Vec<Case> {
    vec![
        Case::get("/"),
        Case::get("/some/path?with=a&query"),
        Case::new("HEAD", "/length/100"),
        Case::new("OPTIONS", "/"),
        Case::new("DELETE", "/status/204"),
        Case::get("/status/304"),
        Case::get("/status/404"),
        Case::get("/status/503"),
        Case::get("/length/0"),
        Case::get("/length/70000"),
        Case::get("/chunked/3000"),
        Case::get("/chunked/200000"),
        Case::get("/gated"),
        Case::post("/", Body::None),
        Case::post("/", whole("a short body")),
        Case::post("/", whole(&"of many bytes ".repeat(15_000))),
        Case::post("/", pieces(&["in ", "three ", "pieces"])),
        Case::post("/", pieces(&["a", "", "b", &"c".repeat(100_000)])),
        Case::post("/status/204", whole("answered with nothing")),
        Case::new("PUT", "/status/404"),
        Case { http2_only: true, ..Case::get("/trailers") },
        Case { http2_only: true, ..Case::post("/", Body::Trailers("before the trailers".to_owned())) },
        Case::grpc("/grpc/0"),
        Case::grpc("/grpc/7"),
        Case::get("/").with("x-two", "1").with("x-two", "2").with("cookie", "a=b; c=d"),
        Case::get("/").with("user-agent", "test/1").with("referer", "http://elsewhere.example/"),
    ]
}

fn filter(name: &'static str, config: Value, cases: Vec<Case>) -> Filter {
    let cases = ordinary().into_iter().chain(cases).collect();
    Filter { name, config, cases }
}

pub(crate) fn all() -> Vec<Filter> {
    let text = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "some words"});
    vec![
        filter("filter-headers", Value::Null, vec![Case::get("/hello"), Case::post("/hello", whole("not read"))]),
        filter("filter-config", text.clone(), Vec::new()),
        filter(
            "filter-old",
            text,
            vec![
                Case::get("/").with("x-ask", "/even"),
                Case::get("/").with("x-ask", "/odd"),
                Case::post("/", whole("small letters")).with("x-upper", "1"),
                Case::post("/", pieces(&["small ", "letters"])).with("x-upper", "1").with("x-ask", "/even"),
            ],
        ),
        filter(
            "filter-auth",
            Value::Null,
            vec![
                Case::get("/").with("x-ask", "/even"),
                Case::get("/").with("x-ask", "/odd"),
                Case::post("/", whole("asked about")).with("x-ask", "/even"),
                Case::post("/", pieces(&["asked ", "about"])).with("x-ask", "/even"),
                Case::post("/", whole(&"large ".repeat(20_000))).with("x-ask", "/even"),
            ],
        ),
        filter(
            "filter-grpc-auth",
            Value::Null,
            vec![
                Case::grpc("/grpc/0").with("x-status", "7"),
                Case::grpc("/grpc/0").with("x-status", "14"),
                Case::grpc("/health").with("x-status", "7"),
                Case::grpc("/grpc/5").with("x-status", "0"),
            ],
        ),
        filter("filter-body", Value::Null, body()),
        filter("filter-probe", Value::Null, probe()),
        filter("filter-witness", Value::Null, witness()),
    ]
}

fn body() -> Vec<Case> {
    let mut cases = vec![
        Case::post("/", whole("this is a secret")),
        Case::post("/", pieces(&["this is a sec", "ret"])),
        Case::post("/", whole("a secret as it is")).with("x-body", "pass"),
        Case::post("/length/1000", whole("x")).with("x-body", "frame"),
        Case::get("/chunked/900").with("x-body", "frame"),
        Case::get("/gated").with("x-body", "frame"),
        Case::get("/status/204").with("x-body", "frame"),
        Case::new("HEAD", "/length/9").with("x-body", "frame"),
        Case::get("/length/100000").with("x-body", "upper"),
        Case::post("/", whole(&"many bytes ".repeat(10_000))).with("x-body", "upper"),
        Case::post("/", gated(&["one ", "two ", "three"])).with("x-body", "upper"),
        Case::post("/", whole("asked about")).with("x-body", "ask"),
        Case::post("/", whole("it is refused")).with("x-body", "ask"),
        Case::post("/", pieces(&["asked ", "about"])).with("x-body", "ask"),
    ];
    for what in ["upper", "refuse", "frame"] {
        cases.push(Case::post("/", whole("with its length")).with("x-body", what));
        cases.push(Case::post("/", pieces(&["without ", "a length"])).with("x-body", what));
    }
    cases
}

fn probe() -> Vec<Case> {
    const PROPERTIES: &[&str] = &[
        "request/path",
        "request/url_path",
        "request/query",
        "request/host",
        "request/scheme",
        "request/method",
        "request/protocol",
        "request/referer",
        "request/useragent",
        "request/size",
        "request/headers/x-with",
        "request/headers/x-none",
        "request/headers/:path",
        "request/nothing",
        "response/code",
        "connection/mtls",
        "connection/tls_version",
        "connection/requested_server_name",
        "listener_direction",
        "plugin_name",
        "plugin_root_id",
        "plugin_vm_id",
        "nothing",
    ];
    let mut cases: Vec<Case> = PROPERTIES
        .iter()
        .map(|property| Case::get("/a?b=c").with("x-do", "property").with("x-with", property))
        .collect();
    for what in [
        "count",
        "pairs",
        "edit",
        "replace-all",
        "reply",
        "reply-empty",
        "share",
        "queue",
        "foreign",
        "resumed",
        "unknown-backend",
        "grpc",
        "no-method",
    ] {
        cases.push(Case::get("/a?b=c").with("x-do", what));
    }
    for what in ["edit", "replace-all", "reply"] {
        cases.push(Case::post("/a", whole("with a body")).with("x-do", what));
    }
    for what in ["status", "reply"] {
        cases.push(Case::get("/length/10").with("x-then", what));
        cases.push(Case::get("/chunked/5000").with("x-then", what));
        cases.push(Case::new("HEAD", "/length/10").with("x-then", what));
        cases.push(Case::get("/status/404").with("x-then", what));
    }
    cases
}

fn witness() -> Vec<Case> {
    let mut cases = vec![
        Case::post("/", gated(&["one piece"])),
        Case::post("/", gated(&["two ", "pieces"])),
        Case { http2_only: true, ..Case::get("/trailers").with("x-act", "edit-trailers") },
        Case { http2_only: true, ..Case::get("/trailers").with("x-act", "replace-trailers") },
        Case { http2_only: true, ..Case::get("/trailers").with("x-act", "ask-trailers") },
        Case { http2_only: true, ..Case::get("/trailers").with("x-act", "hold-response") },
        Case { http2_only: true, ..Case::get("/trailers").with("x-act", "hold-response edit-trailers") },
        Case::grpc("/grpc/0").with("x-act", "edit-trailers"),
        Case::grpc("/grpc/0").with("x-act", "hold-response"),
        Case::grpc("/grpc/0").with("x-act", "ask-request ask-response"),
    ];
    for what in ["ask-request", "ask-response", "append-request", "unframe append-response", "hold-request"] {
        cases.push(Case::get("/").with("x-act", what));
        cases.push(Case::get("/chunked/3000").with("x-act", what));
        cases.push(Case::post("/", pieces(&["two ", "pieces"])).with("x-act", what));
    }
    cases.push(Case::get("/length/3000").with("x-act", "unframe hold-response"));
    cases.push(Case::get("/length/3000").with("x-act", "unframe hold-response append-response"));
    cases.push(Case::get("/chunked/3000").with("x-act", "hold-response append-response"));
    cases.push(Case::get("/gated").with("x-act", "append-response"));
    cases.push(Case::post("/", pieces(&["two ", "pieces"])).with("x-act", "hold-request append-request"));
    cases
}
