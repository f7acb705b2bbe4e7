//! A filter of the proxy-wasm ABI that asks a backend about each request, and lets it pass where the answer's first byte is
//! even.

use log::info;
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
        let path = self.get_http_request_header("x-ask").unwrap_or_else(|| "/bytes/1".to_owned());
        let head = vec![(":method", "GET"), (":path", path.as_str()), (":authority", "auth.example")];
        match self.dispatch_http_call("auth", head, None, vec![], Duration::from_secs(10)) {
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
    fn on_http_call_response(&mut self, _: u32, fields: usize, length: usize, _: usize) {
        let status = self.get_http_call_response_header(":status").unwrap_or_default();
        let body = self.get_http_call_response_body(0, length).unwrap_or_default();
        info!("{fields} fields, status {status}");
        if body.first().is_some_and(|byte| byte % 2 == 0) {
            self.set_http_request_header("x-auth-status", Some(&status));
            self.resume_http_request();
            return;
        }
        self.send_http_response(403, vec![("powered-by", "proxy-wasm")], Some(b"Access forbidden.\n"));
    }
}
