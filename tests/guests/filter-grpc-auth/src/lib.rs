//! A filter of the proxy-wasm ABI that asks a service of gRPC about each call, and lets it pass where the status of the answer
//! is even. `x-status` says which status is asked for. Calls of `/health` are not asked about, and what is no gRPC is refused.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_http_context(|_, _| -> Box<dyn HttpContext> { Box::new(Auth) });
}}

struct Auth;

impl HttpContext for Auth {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        if self.get_http_request_header("content-type").as_deref() != Some("application/grpc") {
            self.send_http_response(503, vec![("powered-by", "proxy-wasm")], Some(b"gRPC alone is served here.\n"));
            return Action::Pause;
        }
        if self.get_http_request_header(":path").as_deref() == Some("/health") {
            return Action::Continue;
        }
        let status = self.get_http_request_header("x-status").unwrap_or_else(|| "0".to_owned());
        let metadata = vec![("x-asked-by", &b"filter"[..])];
        match self.dispatch_grpc_call("calls", "grpc", &status, metadata, Some(b"may it"), Duration::from_secs(5)) {
            Ok(_) => Action::Pause,
            Err(status) => {
                self.send_http_response(500, vec![], Some(format!("{status:?}\n").as_bytes()));
                Action::Pause
            }
        }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("powered-by", Some("proxy-wasm"));
        Action::Continue
    }
}

impl Context for Auth {
    fn on_grpc_call_response(&mut self, _: u32, status: u32, length: usize) {
        let (told, message) = self.get_grpc_status();
        let body = self.get_grpc_call_response_body(0, length).unwrap_or_default();
        let found = format!("{status} {told} {} {}", message.unwrap_or_default(), String::from_utf8_lossy(&body));
        if status % 2 == 0 {
            self.set_http_request_header("x-answer", Some(&found));
            self.resume_http_request();
            return;
        }
        self.send_http_response(
            403,
            vec![("powered-by", "proxy-wasm"), ("x-answer", &found)],
            Some(b"Access forbidden.\n"),
        );
    }
}
