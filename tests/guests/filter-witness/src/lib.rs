//! A filter of the proxy-wasm ABI that notes which of its callbacks are called, in which order and with what. The list of one
//! exchange is kept under the name in its `x-case`; a request with `x-read` is answered with such a list. By the words of the
//! request's `x-act` it does something on the way.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root) });
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Witness { case: String::new(), acts: String::new(), noted: Vec::new(), waits: Waits::Nothing }))
    }
}

/// What goes on with the answer of a callout.
enum Waits {
    Nothing,
    Request,
    Response,
}

struct Witness {
    case: String,
    acts: String,
    noted: Vec<String>,
    waits: Waits,
}

impl Witness {
    fn acts(&self, what: &str) -> bool {
        self.acts.split(' ').any(|act| act == what)
    }

    fn note(&mut self, what: String) {
        self.noted.push(what);
    }

    /// How a body is cut into pieces is the network's affair: of those that are not the last only that there were some.
    fn note_piece(&mut self, of: &str, length: usize, end: bool) {
        let what = if end { format!("{of} ends with {length}") } else { format!("{of} goes on") };
        if self.noted.last() != Some(&what) {
            self.noted.push(what);
        }
    }

    fn ask(&mut self, waits: Waits) -> Action {
        let head = vec![(":method", "GET"), (":path", "/even"), (":authority", "auth.example")];
        match self.dispatch_http_call("auth", head, None, vec![], Duration::from_secs(5)) {
            Ok(_) => {
                self.waits = waits;
                Action::Pause
            }
            Err(status) => {
                self.note(format!("no callout: {status:?}"));
                Action::Continue
            }
        }
    }
}

impl Context for Witness {
    fn on_http_call_response(&mut self, _: u32, _: usize, length: usize, trailers: usize) {
        self.note(format!("answer of {length} with {trailers}"));
        match std::mem::replace(&mut self.waits, Waits::Nothing) {
            Waits::Nothing => {}
            Waits::Request => self.resume_http_request(),
            Waits::Response => self.resume_http_response(),
        }
    }

    fn on_done(&mut self) -> bool {
        self.note("done".to_owned());
        true
    }
}

impl HttpContext for Witness {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        if let Some(case) = self.get_http_request_header("x-read") {
            let (list, _) = self.get_shared_data(&case);
            self.send_http_response(if list.is_some() { 200 } else { 404 }, vec![], list.as_deref());
            return Action::Pause;
        }
        self.case = self.get_http_request_header("x-case").unwrap_or_default();
        self.acts = self.get_http_request_header("x-act").unwrap_or_default();
        self.note(format!("request, end: {end}"));
        if self.acts("ask-request") { self.ask(Waits::Request) } else { Action::Continue }
    }

    fn on_http_request_body(&mut self, length: usize, end: bool) -> Action {
        self.note_piece("request body", length, end);
        if self.acts("append-request") && end {
            self.set_http_request_body(length, 0, b"[the end]");
        }
        if self.acts("hold-request") && !end { Action::Pause } else { Action::Continue }
    }

    fn on_http_request_trailers(&mut self, fields: usize) -> Action {
        self.note(format!("request trailers: {fields}"));
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        let status = self.get_http_response_header(":status").unwrap_or_default();
        self.note(format!("response {status}, end: {end}"));
        if self.acts("unframe") {
            self.set_http_response_header("content-length", None);
        }
        if self.acts("ask-response") { self.ask(Waits::Response) } else { Action::Continue }
    }

    fn on_http_response_body(&mut self, length: usize, end: bool) -> Action {
        self.note_piece("response body", length, end);
        if self.acts("append-response") && end {
            self.set_http_response_body(length, 0, b"[the end]");
        }
        if self.acts("hold-response") && !end { Action::Pause } else { Action::Continue }
    }

    fn on_http_response_trailers(&mut self, fields: usize) -> Action {
        let mut pairs: Vec<_> =
            self.get_http_response_trailers().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.sort();
        self.note(format!("response trailers: {fields} {}", pairs.join(" ")));
        if self.acts("edit-trailers") {
            self.set_http_response_trailer("x-trailer", Some("changed"));
            self.add_http_response_trailer("x-added", "1");
            self.add_http_response_trailer("x-added", "2");
            self.set_http_response_trailer("x-other", None);
            let value = self.get_http_response_trailer("x-trailer").unwrap_or_default();
            self.note(format!("and then {value}"));
        }
        if self.acts("replace-trailers") {
            self.set_http_response_trailers(vec![("x-only", "this")]);
        }
        if self.acts("ask-trailers") { self.ask(Waits::Response) } else { Action::Continue }
    }

    fn on_log(&mut self) {
        self.note("log".to_owned());
        let _ = self.set_shared_data(&self.case, Some(self.noted.join("; ").as_bytes()), None);
    }
}
