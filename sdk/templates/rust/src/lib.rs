//! Lets requests pass that bring a header, and tells backend and client who looked.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{
    Decision, OnRequest, OnResponse, Plugin, Reply, Request, Response, attributes, log,
};

/// Lets requests pass that bring a header.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// What a client sends under this name is taken out before any plugin runs.
#[schemars(extend("x-sluice-owned-headers" = ["x-checked-by"]))]
pub struct Config {
    /// The header that a request has to bring.
    pub header: String,
}

pub struct RequireHeader {
    header: String,
}

/// Tells who looked at a request, or at its response.
const CHECKED_BY: &str = "x-checked-by";
const NAME: &str = "my-plugin";

impl Plugin for RequireHeader {
    type Config = Config;

    // Runs once for each configuration: parse here, and the phases find it parsed.
    fn configure(config: Config) -> Result<Self, String> {
        if config.header.is_empty() {
            return Err("header is empty: name the header that requests have to bring".to_owned());
        }
        Ok(RequireHeader {
            header: config.header,
        })
    }
}

impl OnRequest for RequireHeader {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let Some(value) = request.header_str(&self.header) else {
            log::info(&format!("refused: {} {}", request.method(), request.path()));
            return Reply::new(403)
                .text(&format!("the header {} is missing\n", self.header))
                .into();
        };
        // For the access log, and for plugins that run later. A value may be too long for it.
        if let Err(reason) = attributes::set("my-plugin.value", value) {
            log::warn(&format!("no attribute was set: {reason}"));
        }
        if let Err(reason) = request.set_header(CHECKED_BY, NAME) {
            log::error(&format!("no header was set: {reason}"));
        }
        Decision::Continue
    }
}

impl OnResponse for RequireHeader {
    fn on_response(&self, _: &Request<'_>, response: &mut Response<'_>) -> Decision {
        if let Err(reason) = response.set_header(CHECKED_BY, NAME) {
            log::error(&format!("no header was set: {reason}"));
        }
        Decision::Continue
    }
}

sluice_plugin::export!(RequireHeader: request, response);

// `cargo test` runs these natively, `sluice plugin test` also against the module, in the gateway's engine.
#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::{Exchange, configure, json};

    #[test]
    fn a_request_with_the_header_goes_on() {
        let plugin = configure::<RequireHeader>(json!({ "header": "x-tenant" })).unwrap();
        let mut exchange = Exchange::get("/orders").header("x-tenant", "acme");
        assert!(exchange.on_request(&plugin).is_continue());
        assert_eq!(
            exchange.request().header_str(CHECKED_BY).as_deref(),
            Some(NAME)
        );
        assert_eq!(
            attributes::get::<String>("my-plugin.value").as_deref(),
            Some("acme")
        );
    }

    #[test]
    fn a_request_without_the_header_is_refused() {
        let plugin = configure::<RequireHeader>(json!({ "header": "x-tenant" })).unwrap();
        let decision = Exchange::get("/orders").on_request(&plugin);
        let refusal = Reply::new(403).text("the header x-tenant is missing\n");
        assert_eq!(decision, refusal.into());
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert!(configure::<RequireHeader>(json!({ "header": "" })).is_err());
    }
}
