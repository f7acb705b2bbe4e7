//! A filter of the proxy-wasm ABI that does what the request's `x-do` says. What it finds out it writes into `x-told`.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MetricType, Status};
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root { queue: 0 }) });
}}

struct Root {
    queue: u32,
}

impl Context for Root {
    fn on_http_call_response(&mut self, _: u32, _: usize, length: usize, _: usize) {
        let body = self.get_http_call_response_body(0, length).unwrap_or_default();
        let _ = self.set_shared_data("root-answer", Some(&body), None);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let config = String::from_utf8(self.get_plugin_configuration().unwrap_or_default()).unwrap_or_default();
        match config.as_str() {
            "trap" => panic!("told to"),
            "loop" => loop {
                std::hint::black_box(());
            },
            "allocate" => drop(std::hint::black_box(vec![1u8; 1 << 30])),
            "call" => self.set_tick_period(Duration::from_millis(10)),
            _ => {}
        }
        self.queue = self.register_shared_queue("work");
        true
    }

    fn on_tick(&mut self) {
        let head = vec![(":method", "GET"), (":path", "/tick"), (":authority", "auth.example")];
        let _ = self.dispatch_http_call("auth", head, None, vec![], Duration::from_secs(1));
    }

    fn on_queue_ready(&mut self, queue: u32) {
        if let Ok(Some(value)) = self.dequeue_shared_queue(queue) {
            let _ = self.set_shared_data("from-queue", Some(&value), None);
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Probe { id, queue: self.queue, seen: 0, then: String::new() }))
    }
}

struct Probe {
    id: u32,
    queue: u32,
    /// Phases so far: its own memory lasts from one to the next.
    seen: u32,
    /// What it is to do with the response. Envoy has no request's fields any more by then.
    then: String,
}

impl Probe {
    fn tell(&self, what: &str) {
        self.set_http_request_header("x-told", Some(what));
    }

    fn header(&self, name: &str) -> String {
        self.get_http_request_header(name).unwrap_or_default()
    }

    fn metric(&self, kind: MetricType, name: &str) -> Result<u32, Status> {
        hostcalls::define_metric(kind, name)
    }
}

impl Context for Probe {
    fn on_done(&mut self) -> bool {
        // Of one length: what is shared grows by none of them.
        let _ = self.set_shared_data("ended", Some(format!("{:010}", self.id).as_bytes()), None);
        true
    }
}

fn describe(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.chars().all(|c| !c.is_control()) && !text.is_empty() => text.to_owned(),
        _ => value.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

impl HttpContext for Probe {
    fn on_http_request_headers(&mut self, fields: usize, ends: bool) -> Action {
        self.seen += 1;
        let argument = self.header("x-with");
        self.then = self.header("x-then");
        match self.header("x-do").as_str() {
            "count" => self.tell(&format!("{fields} {} {ends}", self.get_http_request_headers().len())),
            "pairs" => {
                let pairs: Vec<_> =
                    self.get_http_request_headers().into_iter().map(|(n, v)| format!("{n}={v}")).collect();
                self.tell(&pairs.join(";"));
            }
            "edit" => {
                self.set_http_request_header("x-set", Some("one"));
                self.set_http_request_header("x-set", Some("two"));
                self.add_http_request_header("x-set", "three");
                self.set_http_request_header("x-gone", None);
                self.set_http_request_header(":path", Some("/changed?by=filter"));
                self.set_http_request_header(":authority", Some("other.example:8080"));
                self.set_http_request_header(":method", Some("PUT"));
                self.set_http_request_header("content-length", None);
                self.set_http_request_header("connection", Some("x-set"));
            }
            "replace-all" => self.set_http_request_headers(vec![(":path", "/all"), ("x-only", "this")]),
            "bad-name" => self.set_http_request_header("no name", Some("x")),
            "bad-value" => self.set_http_request_header("x-a", Some("a\r\nx-b: c")),
            "bad-path" => self.set_http_request_header(":path", Some("no slash")),
            "bad-status" => self.send_http_response(77, vec![], None),
            "property" => {
                let path: Vec<&str> = argument.split('/').collect();
                let told = match self.get_property(path) {
                    Some(value) => describe(&value),
                    None => "none".to_owned(),
                };
                self.tell(&told);
            }
            "set-property" => {
                self.set_property(vec!["tenant"], Some(b"blue"));
                self.tell(&describe(&self.get_property(vec!["tenant"]).unwrap_or_default()));
            }
            "shared" => {
                let (value, cas) = self.get_shared_data(&argument);
                let told = value.map_or("none".to_owned(), |value| describe(&value));
                self.tell(&format!("{told} {}", cas.is_some()));
            }
            "share" => {
                let first = self.set_shared_data("k", Some(b"1"), None);
                let (_, cas) = self.get_shared_data("k");
                let second = self.set_shared_data("k", Some(b"2"), cas);
                let third = self.set_shared_data("k", Some(b"3"), cas);
                let (value, _) = self.get_shared_data("k");
                self.tell(&format!("{first:?} {second:?} {third:?} {}", describe(&value.unwrap_or_default())));
            }
            "queue" => {
                let found = self.resolve_shared_queue("", "work") == Some(self.queue);
                let other = self.resolve_shared_queue("", "none").is_none();
                let put = self.enqueue_shared_queue(self.queue, Some(b"job"));
                let unknown = self.enqueue_shared_queue(4_711, None);
                self.tell(&format!("{found} {other} {put:?} {unknown:?}"));
            }
            "metrics" => {
                let counter = self.metric(MetricType::Counter, "probe.requests").unwrap();
                let gauge = self.metric(MetricType::Gauge, "probe.level").unwrap();
                let histogram = self.metric(MetricType::Histogram, "probe.sizes").unwrap();
                hostcalls::increment_metric(counter, 2).unwrap();
                hostcalls::record_metric(gauge, 7).unwrap();
                hostcalls::increment_metric(gauge, -3).unwrap();
                hostcalls::record_metric(histogram, 1).unwrap();
                let values = [counter, gauge].map(|metric| hostcalls::get_metric(metric).unwrap());
                let refused = [
                    hostcalls::increment_metric(counter, -1),
                    hostcalls::get_metric(histogram).map(drop),
                    hostcalls::get_metric(9_999).map(drop),
                ];
                self.tell(&format!("{values:?} {refused:?}"));
            }
            "many-metrics" => {
                for n in 0..1_000 {
                    self.metric(MetricType::Counter, &format!("many.{n}")).unwrap();
                }
            }
            "foreign" => self.tell(&format!("{:?}", self.call_foreign_function("declare_property", Some(b"x")))),
            "reply" => self.send_http_response(418, vec![("x-a", "1"), ("x-a", "2")], Some(b"short")),
            "reply-empty" => self.send_http_response(204, vec![], None),
            "pause" => return Action::Pause,
            "resumed" => {
                self.resume_http_request();
                return Action::Pause;
            }
            "close" => self.reset_http_request(),
            "trap" => panic!("told to"),
            "loop" => loop {
                std::hint::black_box(());
            },
            "allocate" => drop(std::hint::black_box(vec![1u8; 1 << 30])),
            "grpc" => {
                let called = self.dispatch_grpc_call("nobody", "s", "m", vec![], None, Duration::from_secs(1));
                self.tell(&format!("{called:?}"));
            }
            "grpc-stream" => drop(self.open_grpc_stream("auth", "s", "m", vec![])),
            "unknown-backend" => {
                let head = vec![(":method", "GET"), (":path", "/"), (":authority", "a")];
                self.tell(&format!("{:?}", self.dispatch_http_call("nobody", head, None, vec![], Duration::ZERO)));
            }
            "no-method" => {
                let head = vec![(":path", "/"), (":authority", "a")];
                self.tell(&format!("{:?}", self.dispatch_http_call("auth", head, None, vec![], Duration::ZERO)));
            }
            "trailers" => {
                let head = vec![(":method", "GET"), (":path", "/"), (":authority", "a")];
                let trailers = vec![("x-t", "1")];
                self.tell(&format!("{:?}", self.dispatch_http_call("auth", head, None, trailers, Duration::ZERO)));
            }
            _ => {}
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, fields: usize, ends: bool) -> Action {
        self.seen += 1;
        let status = self.get_http_response_header(":status").unwrap_or_default();
        self.add_http_response_header("x-seen", &format!("{} {fields} {ends} {status}", self.seen));
        match self.then.as_str() {
            "status" => self.set_http_response_header(":status", Some("202")),
            "reply" => self.send_http_response(451, vec![], Some(b"instead")),
            "trap" => panic!("told to"),
            "request" => self.set_http_request_header("x-late", Some("1")),
            _ => {}
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        let code = self.get_property(vec!["response", "code"]).map(|value| describe(&value)).unwrap_or_default();
        let path = self.get_http_request_header(":path").unwrap_or_default();
        // Each path by itself: requests end in another order than they began.
        let _ = self.set_shared_data(&format!("logged {path}"), Some(code.as_bytes()), None);
        self.set_property(vec!["logged"], Some(b"yes"));
    }
}
