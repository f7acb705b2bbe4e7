"""The table, as docs/benchmarks.md shows it."""

import platform
import statistics
import subprocess
from pathlib import Path

from . import streams


def median(samples, key="us"):
    return statistics.median(s[key] for s in samples)


def span(samples):
    values = [s["us"] for s in samples]
    return f"{statistics.median(values):.1f} [{min(values):.1f}-{max(values):.1f}]"


def table(result):
    lines = [f"Machine: {result['machine']}", f"Versions: {', '.join(result['versions'])}",
             f"{result['rounds']} interleaved rounds of {result['seconds']} s a proxy and scenario.", ""]
    for scenario, by_proxy in result["samples"].items():
        ours = result["ratios"].get(scenario, {})
        lines += [f"### {scenario}", "",
                  "| proxy | CPU us a request, median [min-max] | requests/s | p50 us | p99 us | Sluice / it: median | 95 % upper bound |",
                  "|---|---|---|---|---|---|---|"]
        for proxy, samples in by_proxy.items():
            r = ours.get(proxy)
            rate = statistics.median(s["requests"] for s in samples) / result["seconds"]
            rate = "" if scenario.startswith("h2") else f"{rate:.0f}"
            p50, p99 = median(samples, "p50_us"), median(samples, "p99_us")
            cells = [proxy, span(samples), rate, "" if p50 != p50 else f"{p50:.0f}", "" if p99 != p99 else f"{p99:.0f}",
                     f"{r['median']:.3f}" if r else "", f"{r['upper']:.3f}" if r else ""]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    if result["plugin"]:
        lines += ["### One header plugin, 20-entry configuration (h1 keep-alive)", "",
                  "| instances | CPU us added to a request, median | 95 % upper bound |", "|---|---|---|"]
        lines += [f"| {name} | {d['median']:+.2f} | {d['upper']:+.2f} |" for name, d in result["plugin"].items()]
        lines.append("")
    if result["idle"]:
        lines += [f"### Memory of idle connections ({result['idle_count']} of each)", "",
                  "| proxy | at the start, MiB | plain, KiB a connection | TLS, KiB a connection |", "|---|---|---|---|"]
        lines += [f"| {name} | {m['start'] / 2**20:.1f} | {m['plain'] / 1024:.1f} | {m['tls'] / 1024:.1f} |"
                  for name, m in result["idle"].items()]
        lines.append("")
    lines.append(streams.table(result["streams"]))
    return "\n".join(lines)


def goals(result):
    """What Sluice aims at, and whether it is there: by the upper bounds, not the medians."""
    rows = []

    def row(what, most, figure, unit=""):
        rows.append(f"| {what} | at most {most:g}{unit} | {figure:.2f}{unit} | {'yes' if figure <= most else 'not yet'} |")

    for scenario, ratios in result["ratios"].items():
        if "bare-pingora" in ratios:
            row(f"{scenario}, of bare Pingora", 1.15, ratios["bare-pingora"]["upper"], "x")
        if "envoy" in ratios:
            row(f"{scenario}, of Envoy", 0.95 if scenario.startswith("new TLS") else 0.7, ratios["envoy"]["upper"], "x")
    for scenario, peer in (("tcp bulk", "haproxy"), ("tcp round trips", "haproxy"), ("udp datagrams", "nginx")):
        ratio = result["streams"].get(scenario, {}).get("ratios", {}).get(peer)
        if ratio:
            row(f"{scenario}, of {peer}", 1.2, ratio["upper"], "x")
    lost = result["streams"].get("udp 10,000 sessions", {}).get("lost", {})
    if "sluice" in lost and "nginx" in lost:
        row("udp 10,000 sessions, datagrams lost: no more than nginx", lost["nginx"] * 100, lost["sluice"] * 100, " %")
    for name, most in (("fresh", 9), ("pooled", 1.5)):
        if name in result["plugin"]:
            row(f"a header plugin, {name}, added to a request", most, result["plugin"][name]["upper"], " us")
    ours = result["idle"].get("sluice", {})
    for kind, most in (("plain", 12), ("tls", 24)):
        if kind in ours:
            row(f"an idle connection, {kind}", most, ours[kind] / 1024, " KiB")
    return "\n".join(["### Goals", "", "| what | goal | upper bound | met |", "|---|---|---|---|", *rows, ""])


def document(result):
    """docs/benchmarks.md, whole."""
    return f"""# Benchmarks

Sluice against bare Pingora (the smallest proxy that the engine makes: `tests/bench/bare-pingora`), nginx, HAProxy and Envoy. `make bench`
runs it; `tests/bench/run --document docs/benchmarks.md` writes this page. Run of {result['date']}.

How: every proxy is resident, pinned to one core with one worker; clients (wrk, h2load) and the backend (nginx, a fixed answer of 128 bytes) share the
other core. Rounds are interleaved and the order rotates. CPU is user and system time of the proxy's process from /proc, by request. A ratio
is the median of the rounds' paired ratios; its upper bound is one-sided, 95 %, by bootstrap. Session resumption is off everywhere.
Sluice has 1,000 HTTPRoutes on 100 hosts, with the load spread over all of them, metrics and access log on (a file in memory); the peers
have one route and no log. Their configurations: `tests/bench/peers/`. TCP and UDP are measured
afterwards, beside HAProxy and nginx, with a client and a backend in Python that carry bytes and say nothing of HTTP; what is lost of
datagrams is what was not answered within a second. The matcher has a page of its own: [benchmarks-matcher.md](benchmarks-matcher.md).

{table(result)}
{goals(result)}"""


def machine():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown CPU")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 2**20
    cores = len([l for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("processor")])
    return f"{cores} cores of {model}, {memory} GiB, Linux {platform.release()}"


def version(command):
    done = subprocess.run(command, capture_output=True, text=True)
    line = (done.stdout + done.stderr).strip().splitlines()[0]
    return line.removeprefix(command[0]).removeprefix("  version: ")
