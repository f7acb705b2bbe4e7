//! A filter of the proxy-wasm ABI that writes its configuration into each response.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root { content: String::new() }) });
}}

struct Root {
    content: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        self.content = String::from_utf8(bytes).unwrap_or_default();
        if self.content == "refuse" {
            proxy_wasm::hostcalls::log(LogLevel::Error, "this filter takes anything but `refuse`").unwrap();
            return false;
        }
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Configured { content: self.content.clone() }))
    }
}

struct Configured {
    content: String,
}

impl Context for Configured {}

impl HttpContext for Configured {
    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.add_http_response_header("custom-header", &self.content);
        Action::Continue
    }
}
