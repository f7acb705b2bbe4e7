"""TCP beside HAProxy and nginx, UDP beside nginx: what a byte, a round trip, a connection and a datagram cost."""

import json
import os
import shutil
import statistics
import subprocess
import time

from . import measure, proxies
from .clients import Load
from .proxies import CLIENT_CORE, Proxy

BACKEND_PORT = 19001
# Longer than a session lives without a datagram (`udpIdle` below, `proxy_timeout` of the peer).
SESSIONS_END = 7

# What is counted, how many at once, and the proxies that carry it.
TCP = ("haproxy", "nginx", "sluice")
UDP = ("nginx", "sluice")
SCENARIOS = {
    "tcp bulk": ("bulk", 4, "MB", TCP),
    "tcp round trips": ("round-trips", 48, "round trip", TCP),
    "tcp new connections": ("connections", 1, "connection", TCP),
    "udp datagrams": ("datagrams", 48, "datagram", UDP),
    "udp 10,000 sessions": ("sessions", 10_000, "datagram", UDP),
}


def scenario(kind, count, losses):
    def load(proxy, seconds, workdir):
        command = ["taskset", "-c", CLIENT_CORE, "python3", "-m", "driver.stream_load", kind, str(proxy.plain), str(seconds),
                   str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        if kind == "sessions":
            # Their end is a part of what they cost; and those of one proxy would hold the local ports that the next one needs.
            time.sleep(SESSIONS_END)
        found = json.loads(done.stdout)
        losses.setdefault(proxy.name, []).append((found.get("lost", 0), found["done"]))
        times = {key: found[key] for key in ("p50_us", "p99_us") if key in found}
        return Load(found["done"], found["failed"], **times)
    return load


def run(options, workdir, wanted, progress):
    """{scenario: {"unit", "samples", "ratios", "lost"}}"""
    chosen = {name: of for name, of in SCENARIOS.items() if wanted(options, name)}
    if not chosen:
        return {}
    left_out = set(options.without.split(","))
    field = [proxy for proxy in peers(workdir) if proxy.name not in left_out]
    behind = Proxy("stream-backend", BACKEND_PORT, 0, ["python3", "-m", "driver.stream_backend", str(BACKEND_PORT)])
    started, result = [], {}
    try:
        # The driver's folder is where its modules are found.
        behind.start(workdir, CLIENT_CORE, cwd=os.getcwd())
        started.append(behind)
        for proxy in field:
            proxy.start(workdir)
            started.append(proxy)
        for name, (kind, count, unit, carriers) in chosen.items():
            losses = {}
            carry = [proxy for proxy in field if proxy.name in carriers]
            samples = measure.interleaved(
                carry, {name: scenario(kind, count, losses)}, options.rounds, options.seconds, workdir, progress)[name]
            us = {proxy: [sample["us"] for sample in values] for proxy, values in samples.items()}
            ratios = {p: measure.ratio(us["sluice"], v) for p, v in us.items() if p != "sluice"} if "sluice" in us else {}
            lost = {proxy: sum(l for l, _ in of) / max(1, sum(l * 2 + d for l, d in of)) for proxy, of in losses.items()}
            result[name] = {"unit": unit, "samples": samples, "ratios": ratios, "lost": lost}
        return result
    finally:
        for proxy in reversed(started):
            proxy.stop()


def peers(workdir):
    folder = workdir / "sluice-streams"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "config").mkdir(parents=True)
    (folder / "state").mkdir()
    (folder / "config" / "streams.yaml").write_text(CONFIG)
    command = [
        os.environ["SLUICE_BIN"], "run", "--config", str(folder / "config"), "--metrics-address", "127.0.0.1:19242",
        "--admin-address", "127.0.0.1:19243", "--access-log", str(folder / "access.log"), "--state-dir", str(folder / "state"),
    ]
    return [
        Proxy("haproxy", 19220, 0, ["haproxy", "-db", "-f", "haproxy-stream.cfg"]),
        Proxy("nginx", 19210, 0, ["nginx", "-p", "./", "-c", "nginx-stream.conf"]),
        Proxy("sluice", 19240, 0, command),
    ]


def table(result):
    lines = []
    for name, of in result.items():
        unit, udp = of["unit"], name.startswith("udp")
        lost = " lost |" if udp else ""
        lines += [f"### {name}", "",
                  f"| proxy | CPU us a {unit}, median [min-max] | {unit}s/s | p50 us | p99 us |{lost} Sluice / it: median | 95 % upper bound |",
                  "|---|---|---|---|---|" + ("---|" if udp else "") + "---|---|"]
        for proxy, samples in of["samples"].items():
            ratio = of["ratios"].get(proxy)
            us = [sample["us"] for sample in samples]
            median = lambda key: statistics.median(sample[key] for sample in samples)
            known = lambda value: "" if value != value else f"{value:.0f}"
            cells = [proxy, f"{statistics.median(us):.2f} [{min(us):.2f}-{max(us):.2f}]", f"{median('requests') / of['seconds']:.0f}",
                     known(median("p50_us")), known(median("p99_us"))]
            cells += [f"{of['lost'][proxy] * 100:.3f} %"] if udp else []
            cells += [f"{ratio['median']:.3f}", f"{ratio['upper']:.3f}"] if ratio else ["", ""]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


CONFIG = f"""\
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
  - {{name: tcp, port: 19240, protocol: TCP}}
  - {{name: udp, port: 19240, protocol: UDP}}
---
# Each round's clients are new ones: the sessions of those before end soon, as with the peer, and there is room for some rounds'.
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {{name: edge, namespace: bench}}
spec:
  listeners:
  - name: "*"
    limits: {{udpSessions: 60000}}
    timeouts: {{udpIdle: 5s}}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: backend, namespace: bench}}
spec:
  targetRefs: [{{group: "", kind: Service, name: backend}}]
  backend: {{circuitBreaker: {{maxConnections: 60000, maxRequests: 60000}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: backend, namespace: bench}}
spec:
  parentRefs: [{{name: edge, sectionName: tcp}}]
  rules: [{{backendRefs: [{{name: backend, port: 80}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {{name: backend, namespace: bench}}
spec:
  parentRefs: [{{name: edge, sectionName: udp}}]
  rules: [{{backendRefs: [{{name: backend, port: 53}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: backend, namespace: bench}}
spec:
  ports: [{{name: tcp, port: 80}}, {{name: udp, port: 53, protocol: UDP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: backend-1, namespace: bench, labels: {{kubernetes.io/service-name: backend}}}}
addressType: IPv4
ports: [{{name: tcp, port: {BACKEND_PORT}}}, {{name: udp, port: {BACKEND_PORT}, protocol: UDP}}]
endpoints: [{{addresses: ["127.0.0.1"]}}]
"""
