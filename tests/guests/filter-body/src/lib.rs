//! A filter of the proxy-wasm ABI that reads bodies whole, and replaces those that hold the word "secret". By the request's
//! `x-body` it does other things with them: `upper` changes each piece as it passes, `refuse` answers at the first,
//! `ask` waits for a backend at each, `count` tells how many there were, `keep-length` leaves the length as it was told.

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
        Some(Box::new(Body { what: String::new(), pieces: 0 }))
    }
}

struct Body {
    what: String,
    pieces: u32,
}

impl Context for Body {
    fn on_http_call_response(&mut self, _: u32, _: usize, _: usize, _: usize) {
        let body = self.get_http_request_body(0, usize::MAX).unwrap_or_default();
        if body.windows(7).any(|word| word == b"refused") {
            self.send_http_response(403, vec![], Some(b"no\n"));
        } else {
            self.resume_http_request();
        }
    }
}

fn redacted(body: &[u8]) -> Option<Vec<u8>> {
    let has = body.windows(6).any(|word| word == b"secret");
    has.then(|| format!("a body of {} bytes\n", body.len()).into_bytes())
}

impl HttpContext for Body {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.what = self.get_http_request_header("x-body").unwrap_or_default();
        if self.what != "keep-length" {
            self.set_http_request_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, length: usize, end: bool) -> Action {
        self.pieces += 1;
        match self.what.as_str() {
            "upper" => {
                let piece = self.get_http_request_body(0, length).unwrap_or_default();
                self.set_http_request_body(0, length, &piece.to_ascii_uppercase());
                Action::Continue
            }
            "refuse" => {
                self.send_http_response(413, vec![("x-by", "filter")], Some(b"too much\n"));
                Action::Pause
            }
            "ask" => {
                let head = vec![(":method", "GET"), (":path", "/even"), (":authority", "auth.example")];
                self.dispatch_http_call("auth", head, None, vec![], Duration::from_secs(5)).unwrap();
                Action::Pause
            }
            "pass" | "respond-only" => Action::Continue,
            _ if !end => Action::Pause,
            _ => {
                let body = self.get_http_request_body(0, length).unwrap_or_default();
                if let Some(other) = redacted(&body) {
                    self.set_http_request_body(0, length, &other);
                }
                Action::Continue
            }
        }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.add_http_response_header("x-pieces", &self.pieces.to_string());
        if self.what != "keep-length" {
            self.set_http_response_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, length: usize, end: bool) -> Action {
        match self.what.as_str() {
            "upper" => {
                let piece = self.get_http_response_body(0, length).unwrap_or_default();
                self.set_http_response_body(0, length, &piece.to_ascii_uppercase());
                Action::Continue
            }
            "frame" => {
                self.set_http_response_body(0, 0, b"<");
                if end {
                    self.set_http_response_body(usize::MAX, 0, b">");
                }
                Action::Continue
            }
            "pass" | "refuse" | "ask" => Action::Continue,
            _ if !end => Action::Pause,
            _ => {
                let body = self.get_http_response_body(0, length).unwrap_or_default();
                if let Some(other) = redacted(&body) {
                    self.set_http_response_body(0, length, &other);
                }
                Action::Continue
            }
        }
    }
}
