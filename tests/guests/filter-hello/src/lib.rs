//! A filter of the proxy-wasm ABI that greets in its log, and then tells the time at each tick.

use log::info;
use proxy_wasm::traits::{Context, RootContext};
use proxy_wasm::types::LogLevel;
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Hello { ticks: 0 }) });
}}

struct Hello {
    ticks: u64,
}

impl Context for Hello {}

impl RootContext for Hello {
    fn on_vm_start(&mut self, _: usize) -> bool {
        info!("Hello, World!");
        self.set_tick_period(Duration::from_millis(20));
        true
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        let now = self.get_current_time().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        info!("tick {} at {}", self.ticks, now.as_secs());
        if let Ok(metric) = proxy_wasm::hostcalls::define_metric(proxy_wasm::types::MetricType::Counter, "hello.ticks")
        {
            let _ = proxy_wasm::hostcalls::increment_metric(metric, 1);
        }
    }
}
