//! A filter of the proxy-wasm ABI that carries a schema of its configuration, as components do.

use crate::filters::filter;
use crate::setup::{Host, plugin, use_of};
use sluice_model::plugin::PluginSpec;
use sluice_model::problem::Code;
use sluice_wasm::SCHEMA_SECTION;

const SCHEMA: &str = r#"{"type":"object","properties":{"header":{"type":"string"}},"required":["header"],
    "additionalProperties":false,"x-sluice-owned-headers":["x-checked-by"]}"#;

/// The filter, with a custom section at its end.
fn with_schema() -> PluginSpec {
    let mut module = crate::setup::guest("filter_config").to_vec();
    let mut content = leb128(SCHEMA_SECTION.len());
    content.extend(SCHEMA_SECTION.bytes().chain(SCHEMA.bytes()));
    module.push(0);
    module.extend(leb128(content.len()));
    module.extend(content);
    plugin(&filter("filter-config").key.name, module.into())
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[tokio::test]
async fn a_filters_configuration_is_held_to_its_schema_before_any_of_its_code_runs() {
    let host = Host::new();
    host.ensure(&[&with_schema()], &[&use_of("filter-config", r#"{"haeder":"x-a"}"#)]).await;
    let problem = host.problem();
    assert_eq!(problem.code, Code::PluginConfig);
    assert!(problem.message.contains("haeder") && !problem.message.contains("said no"), "{problem}");
}

#[tokio::test]
async fn a_filter_owns_the_headers_that_its_schema_says() {
    let host = Host::new();
    let version = host.ready(&with_schema(), r#"{"header":"x-a"}"#).await;
    assert_eq!(version.owned_headers(), ["x-checked-by"]);
    assert!(host.host.statuses()[0].schema.is_some());
}
