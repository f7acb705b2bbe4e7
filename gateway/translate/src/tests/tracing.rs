use super::support::{Harness, gateway};
use sluice_model::Severity;
use sluice_model::config::Tracing;
use std::sync::Arc;
use std::time::Duration;

const HTTP: &str = "[{name: web, port: 80, protocol: HTTP}]";

/// A Gateway whose class and whose own GatewayConfig say this of traces.
fn traced(class: &str, own: &str) -> Harness {
    let config = |namespace: &str, name: &str, tracing: &str| {
        format!(
            "---\n{{apiVersion: sluice.dev/v1alpha1, kind: GatewayConfig, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{tracing}}}}}\n"
        )
    };
    let refer = "spec: {infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: own}}, ";
    let yaml = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec:
  controllerName: sluice.dev/gateway-controller
  parametersRef: {group: sluice.dev, kind: GatewayConfig, name: class, namespace: system}
"
    .to_owned()
        + &config("system", "class", class)
        + &config("infra", "own", own)
        + &gateway("infra", "gw", HTTP).replace("spec: {", refer);
    Harness::new(&yaml)
}

fn tracing(h: &Harness) -> Option<Arc<Tracing>> {
    h.config().ports.values().next().unwrap().listeners[0].tracing.clone()
}

#[test]
fn a_gateways_traces_go_where_its_class_says_with_its_own_ratio() {
    let class = "tracing: {otlp: {endpoint: 'http://collector.system:4318', headers: {X-Tenant: shop}, timeout: 2s}, ratio: 0.5}";
    let h = traced(class, "tracing: {ratio: 0.25}");
    assert_eq!(h.problems(), [] as [&str; 0]);
    let tracing = tracing(&h).unwrap();
    assert_eq!(tracing.otlp.endpoint, "http://collector.system:4318/v1/traces", "the path of the specification");
    assert_eq!((tracing.ratio, tracing.otlp.timeout), (0.25, Duration::from_secs(2)));
    let (name, value) = &tracing.otlp.headers[0];
    assert_eq!((name.as_str(), value.as_bytes()), ("x-tenant", b"shop".as_slice()));
    assert!(value.is_sensitive(), "it may be a key");
}

#[test]
fn without_tracing_there_is_none_and_by_default_one_trace_in_a_hundred_is_sampled() {
    assert_eq!(tracing(&traced("", "")), None);
    let h = traced("", "tracing: {otlp: {endpoint: 'https://[2001:db8::1]:4318/otlp/traces'}}");
    assert_eq!(h.problems(), [] as [&str; 0]);
    let tracing = tracing(&h).unwrap();
    assert_eq!(tracing.otlp.endpoint, "https://[2001:db8::1]:4318/otlp/traces");
    assert_eq!((tracing.ratio, tracing.otlp.timeout), (0.01, Duration::from_secs(10)));
}

#[test]
fn a_gateway_may_switch_off_what_its_class_switches_on() {
    let h = traced("tracing: {otlp: {endpoint: 'http://collector:4318'}}", "tracing: {enabled: false}");
    assert_eq!((tracing(&h), h.problems().len()), (None, 0));
}

#[test]
fn traces_that_would_go_nowhere_are_told_with_the_way_out() {
    let h = traced("", "tracing: {ratio: 1.0}");
    assert_eq!(tracing(&h), None);
    assert_eq!(h.problems(), ["P110 Gateway infra/gw spec.infrastructure.parametersRef"]);
    let problem = &h.output.problems[0];
    assert_eq!(problem.severity, Severity::Warning);
    assert!(problem.hint.contains("spec.tracing.otlp.endpoint"), "{problem}");
}

#[test]
fn bad_values_are_told_with_their_fields() {
    let own = "tracing: {otlp: {endpoint: 'http://collector:4318', timeout: 2m, headers: {'a b': x, Host: y, X-Key: \"a\\nb\"}}, ratio: 7}";
    let h = traced("", own);
    assert_eq!(
        h.problems(),
        [
            "P104 GatewayConfig infra/own spec.tracing.otlp.headers[X-Key]",
            "P104 GatewayConfig infra/own spec.tracing.otlp.headers[a b]",
            "P108 GatewayConfig infra/own spec.tracing.otlp.headers[Host]",
            "P109 GatewayConfig infra/own spec.tracing.otlp.timeout",
            "P109 GatewayConfig infra/own spec.tracing.ratio",
        ]
    );
    let tracing = tracing(&h).unwrap();
    assert_eq!((tracing.ratio, tracing.otlp.timeout), (0.01, Duration::from_secs(10)), "each keeps its default");
    assert!(tracing.otlp.headers.is_empty());
}

#[test]
fn an_endpoint_that_cannot_be_posted_to_is_told_and_its_password_is_not_repeated() {
    for bad in [
        "",
        "collector:4318",
        "grpc://collector:4317",
        "http://",
        "http://collector:99999",
        "http://collector:0",
        "http://u:s3cret@collector:4318",
        "http://collector:4318/?key=s3cret",
        "http://collector:4318/v1/traces#s3cret",
    ] {
        let h = traced("", &format!("tracing: {{otlp: {{endpoint: '{bad}'}}}}"));
        assert_eq!(h.problems(), ["P108 GatewayConfig infra/own spec.tracing.otlp.endpoint"], "{bad}");
        let message = &h.output.problems[0].message;
        assert!(message.contains("http://host:port") && !message.contains("s3cret"), "{message}");
        assert_eq!(tracing(&h), None, "{bad}");
    }
}
