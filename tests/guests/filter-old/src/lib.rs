//! A filter of version 0.1.0 of the proxy-wasm ABI, as old filters are: it writes its configuration into each response, asks a
//! backend about requests with `x-ask`, changes the bodies of those with `x-upper`, and asks for the route of the path in
//! `x-reroute`.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use std::time::Duration;

#[unsafe(no_mangle)]
pub extern "C" fn _start() {
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root { words: String::new() }) });
}

struct Root {
    words: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, length: usize) -> bool {
        let bytes = self.get_configuration().unwrap_or_default();
        self.words = format!("{length} {}", String::from_utf8(bytes).unwrap_or_default());
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Old { words: self.words.clone(), upper: false }))
    }
}

struct Old {
    words: String,
    upper: bool,
}

impl Context for Old {
    fn on_http_call_response(&mut self, _: u32, _: usize, length: usize, _: usize) {
        let body = self.get_http_call_response_body(0, length).unwrap_or_default();
        if body.first().is_some_and(|byte| byte % 2 == 0) {
            self.set_http_request_header("x-allowed", Some("yes"));
            self.resume_http_request();
        } else {
            self.send_http_response(403, vec![("x-by", "old")], Some(b"no\n"));
        }
    }
}

impl HttpContext for Old {
    fn on_http_request_headers(&mut self, _: usize) -> Action {
        let none = self.get_http_request_header("x-none").is_none();
        self.set_http_request_header("x-none-is-none", Some(if none { "yes" } else { "no" }));
        self.upper = self.get_http_request_header("x-upper").is_some_and(|value| !value.is_empty());
        if self.upper {
            self.set_http_request_header("content-length", None);
        }
        if let Some(path) = self.get_http_request_header("x-reroute").filter(|path| !path.is_empty()) {
            self.set_http_request_header(":path", Some(&path));
            self.clear_http_route_cache();
        }
        let Some(path) = self.get_http_request_header("x-ask").filter(|path| !path.is_empty()) else {
            return Action::Continue;
        };
        let head = vec![(":method", "GET"), (":path", path.as_str()), (":authority", "auth.example")];
        match self.dispatch_http_call("auth", head, None, vec![], Duration::from_secs(5)) {
            Ok(_) => Action::Pause,
            Err(_) => Action::Continue,
        }
    }

    fn on_http_request_body(&mut self, length: usize, end: bool) -> Action {
        if !self.upper {
            return Action::Continue;
        }
        if !end {
            return Action::Pause;
        }
        let body = self.get_http_request_body(0, length).unwrap_or_default();
        self.set_http_request_body(0, length, &body.to_ascii_uppercase());
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize) -> Action {
        self.set_http_response_header("x-words", Some(&self.words));
        Action::Continue
    }
}
