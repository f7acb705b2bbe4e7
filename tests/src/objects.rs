//! Kubernetes objects as YAML text, for what most tests need. A test about an object's own fields writes it out.

use crate::certificate::Leaf;
use std::net::SocketAddr;

/// Everything lies in this namespace unless a test says otherwise.
pub const NAMESPACE: &str = "default";

/// A GatewayClass of ours, named `sluice`.
pub fn class() -> String {
    "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.dev/gateway-controller}
"
    .to_owned()
}

/// A Gateway `edge` with one HTTP listener, and an HTTPS one where `tls` names a port and a Secret.
pub fn gateway(http: u16, tls: Option<(u16, &str)>) -> String {
    let mut text = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: sluice
  listeners:
  - {{name: http, port: {http}, protocol: HTTP}}
"
    );
    if let Some((port, secret)) = tls {
        text.push_str(&format!(
            "  - {{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: {secret}}}]}}}}\n"
        ));
    }
    text
}

/// A Gateway as [`gateway`] makes it, whose listeners take the settings in `config` (the YAML under
/// `spec.listeners[0]` of a GatewayConfig, as a flow mapping's inside).
pub fn configured_gateway(http: u16, tls: Option<(u16, &str)>, config: &str) -> String {
    let gateway = gateway(http, tls);
    join([
        format!(
            "{gateway}  infrastructure:\n    parametersRef: {{group: sluice.dev, kind: GatewayConfig, name: edge}}\n"
        ),
        format!(
            "\
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {{name: edge, namespace: {NAMESPACE}}}
spec:
  listeners:
  - {{name: \"*\", {config}}}
"
        ),
    ])
}

/// An HTTPRoute on the Gateway `edge`; `rules` is the YAML of its rules, indented as a list at column 2.
pub fn http_route(name: &str, hostnames: &[&str], rules: &str) -> String {
    let mut text = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{name: edge}}]
"
    );
    if !hostnames.is_empty() {
        let quoted: Vec<_> = hostnames.iter().map(|h| format!("\"{h}\"")).collect();
        text.push_str(&format!("  hostnames: [{}]\n", quoted.join(", ")));
    }
    format!("{text}  rules:\n{rules}")
}

/// Everything under `/` goes to `service`, port 80.
pub fn route_to(name: &str, hostnames: &[&str], service: &str) -> String {
    http_route(name, hostnames, &format!("  - backendRefs: [{{name: {service}, port: 80}}]\n"))
}

/// A Service with port 80, and one EndpointSlice an endpoint (slices carry their ports for all of their endpoints).
pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    service_speaking(name, None, endpoints)
}

/// As [`service`], with an `appProtocol`.
pub fn service_speaking(name: &str, app_protocol: Option<&str>, endpoints: &[SocketAddr]) -> String {
    let protocol = app_protocol.map(|p| format!(", appProtocol: {p}")).unwrap_or_default();
    let service = format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  ports: [{{name: main, port: 80{protocol}}}]
"
    );
    let slices = endpoints.iter().enumerate().map(|(n, endpoint)| slice(name, n, *endpoint, "ready: true"));
    join(std::iter::once(service).chain(slices))
}

/// The `n`th EndpointSlice of a Service, with one endpoint; `conditions` as `ready: true, terminating: false`.
pub fn slice(service: &str, n: usize, endpoint: SocketAddr, conditions: &str) -> String {
    let kind = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-{n}, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {kind}
ports: [{{name: main, port: {}}}]
endpoints: [{{addresses: [\"{}\"], conditions: {{{conditions}}}}}]
",
        endpoint.port(),
        endpoint.ip()
    )
}

/// A Secret of type kubernetes.io/tls. `stringData` is what people write; the API server turns it into `data`.
pub fn secret(name: &str, leaf: &Leaf) -> String {
    secret_of(name, &leaf.certificate_pem, &leaf.key_pem)
}

pub fn secret_of(name: &str, certificate: &str, key: &str) -> String {
    tls_secret(NAMESPACE, name, certificate, key)
}

/// As [`secret`], in another namespace.
pub fn secret_in(namespace: &str, name: &str, leaf: &Leaf) -> String {
    tls_secret(namespace, name, &leaf.certificate_pem, &leaf.key_pem)
}

fn tls_secret(namespace: &str, name: &str, certificate: &str, key: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
        indent(certificate),
        indent(key)
    )
}

/// A Plugin whose code is a file beside the configuration. `spec` is further YAML at column 2, empty for none.
pub fn plugin(name: &str, file: &str, spec: &str) -> String {
    format!(
        "\
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  source: {{file: {{path: {file}}}}}
{spec}"
    )
}

/// A TrafficPolicy that puts one plugin before one HTTPRoute. `config` is a YAML flow mapping.
pub fn plugin_on_route(policy: &str, route: &str, plugin: &str, config: &str) -> String {
    format!(
        "\
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {policy}, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route}}}]
  plugins:
  - name: {plugin}
    pluginRef: {{name: {plugin}}}
    config: {config}
"
    )
}

/// Documents of one file.
pub fn join(documents: impl IntoIterator<Item = String>) -> String {
    documents.into_iter().collect::<Vec<_>>().join("---\n")
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A TrafficPolicy of the Service's name, with what it says of backends: the inside of a YAML flow mapping.
pub fn backend_policy(service: &str, backend: &str) -> String {
    format!(
        "\
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {service}, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  backend: {{{backend}}}
"
    )
}
