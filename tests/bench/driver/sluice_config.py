"""Sluice's side of the comparison: 1,000 HTTPRoutes on 100 hosts, as YAML."""

import os
import shutil
import textwrap

HOSTS = 100
ROUTES = 10


def write(folder, plain, tls, workdir, plugin):
    folder.mkdir(parents=True)
    (folder / "gateway.yaml").write_text(gateway(plain, tls, workdir))
    routes = [route(host, number) for host in range(HOSTS) for number in range(ROUTES)]
    (folder / "routes.yaml").write_text("---\n".join(routes))
    if plugin:
        shutil.copy(os.environ["TENANT_PLAN_WASM"], folder / "tenant_plan.wasm")
        (folder / "plugin.yaml").write_text(header_plugin(plugin))


def gateway(plain, tls, workdir):
    return f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: sluice}}
spec: {{controllerName: sluice.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: bench}}
spec:
  gatewayClassName: sluice
  infrastructure:
    parametersRef: {{group: sluice.dev, kind: GatewayConfig, name: edge}}
  listeners:
  - {{name: http, port: {plain}, protocol: HTTP}}
  - {{name: https, port: {tls}, protocol: HTTPS, tls: {{certificateRefs: [{{name: leaf}}]}}}}
---
# No resumption and no end of a connection by count: as the peers are set.
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {{name: edge, namespace: bench}}
spec:
  listeners:
  - name: "*"
    tls: {{tickets: false}}
    limits: {{requestsPerConnection: 1000000000}}
    timeouts: {{keepAlive: 1h}}
---
apiVersion: v1
kind: Secret
metadata: {{name: leaf, namespace: bench}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{textwrap.indent((workdir / "leaf.crt").read_text(), "    ")}
  tls.key: |
{textwrap.indent((workdir / "leaf.key").read_text(), "    ")}
---
apiVersion: v1
kind: Service
metadata: {{name: backend, namespace: bench}}
spec:
  ports: [{{name: main, port: 80}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: backend-1, namespace: bench, labels: {{kubernetes.io/service-name: backend}}}}
addressType: IPv4
ports: [{{name: main, port: 19000}}]
endpoints: [{{addresses: ["127.0.0.1"]}}]
"""


def route(host, number):
    return f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: h{host}-r{number}, namespace: bench}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [h{host}.bench.example]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /r{number}}}}}]
    backendRefs: [{{name: backend, port: 80}}]
"""


def header_plugin(instance):
    """tests/guests/tenant-plan before every route: reads one header, finds it among 20 entries, sets another."""
    entries = "\n".join(f"        tenant-{n}: plan-{n}" for n in range(20))
    return f"""\
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {{name: tenant-plan, namespace: bench}}
spec:
  source: {{file: {{path: tenant_plan.wasm}}}}
  instance: {instance}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: tenant-plan, namespace: bench}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}]
  plugins:
  - name: tenant-plan
    pluginRef: {{name: tenant-plan}}
    config:
      plans:
{entries}
"""
