"""`python3 -m driver`: see tests/bench/run, which prepares everything and starts this."""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from . import clients, measure, proxies, report, streams


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", dir="/dev/shm") as workdir:
        result = run(options, Path(workdir))
    print(report.table(result))
    if options.document:
        Path(options.document).write_text(report.document(result))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1))


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3, help="of load a proxy, scenario and round")
    parser.add_argument("--only", help="parts of scenario names, by commas; also `plugin`, `idle`, `tcp` and `udp`")
    parser.add_argument("--without", default="", help="proxies to leave out, by commas")
    parser.add_argument("--idle", type=int, default=2000, help="idle connections")
    parser.add_argument("--document", help="a file for the whole page, as docs/benchmarks.md")
    parser.add_argument("--out", help="a file for the samples as JSON")
    options = parser.parse_args()
    for name in ("document", "out"):
        path = getattr(options, name)
        setattr(options, name, path and os.path.join(os.environ.get("CALLED_FROM", "."), path))
    options.seconds = int(options.seconds) if options.seconds >= 1 else 1
    return options


def wanted(options, name):
    return not options.only or any(part.strip() in name for part in options.only.split(","))


def run(options, workdir):
    proxies.prepare(workdir)
    left_out = set(options.without.split(","))
    with_sluice = "sluice" not in left_out

    def main_field():
        peers = [p for p in proxies.peers() if p.name not in left_out]
        return peers + ([proxies.sluice("sluice", 19140, workdir)] if with_sluice else [])

    field = main_field()
    plugged = []
    if with_sluice and wanted(options, "plugin"):
        plugged = [proxies.sluice("sluice-fresh", 19150, workdir, "Fresh"),
                   proxies.sluice("sluice-pooled", 19160, workdir, "Pooled")]
    backend = proxies.backend()
    started = []
    try:
        backend.start(workdir, proxies.CLIENT_CORE)
        started.append(backend)
        result = empty(options)
        if wanted(options, "idle"):
            for number, proxy in enumerate(field):
                result["idle"][proxy.name] = idle(lambda: main_field()[number], options.idle, workdir)
        scenarios = {n: s for n, s in clients.SCENARIOS.items() if wanted(options, n)}
        for proxy in (field if scenarios or plugged else []) + plugged:
            proxy.start(workdir)
            started.append(proxy)
            proxies.wait_for_answer(proxy)
        result["samples"] = measure.interleaved(
            field, scenarios, options.rounds, options.seconds, workdir, progress)
        if with_sluice:
            result["ratios"] = {name: ratios(by_proxy) for name, by_proxy in result["samples"].items()}
        if plugged:
            result["plugin"], result["plugin_samples"] = plugin([field[-1], *plugged], options, workdir)
    finally:
        for proxy in reversed(started):
            proxy.stop()
    # Others serve then, and nobody beside them.
    result["streams"] = streams.run(options, workdir, wanted, progress)
    for of in result["streams"].values():
        of["seconds"] = options.seconds
    return result


def empty(options):
    return {
        "machine": report.machine(),
        "versions": [
            report.version([os.environ["SLUICE_BIN"], "--version"]), "pingora 0.9.1",
            report.version(["nginx", "-v"]), report.version(["haproxy", "-v"]),
            report.version([os.environ["ENVOY_BIN"], "--version"]),
        ],
        "date": time.strftime("%Y-%m-%d"), "rounds": options.rounds, "seconds": options.seconds,
        "idle_count": options.idle, "samples": {}, "ratios": {}, "plugin": {}, "idle": {}, "streams": {},
    }


def ratios(by_proxy):
    us = {name: [s["us"] for s in samples] for name, samples in by_proxy.items()}
    return {name: measure.ratio(us["sluice"], values) for name, values in us.items() if name != "sluice"}


def plugin(variants, options, workdir):
    name, scenario = "h1 keep-alive", clients.keep_alive
    samples = measure.interleaved(variants, {name: scenario}, options.rounds, options.seconds, workdir, progress)[name]
    us = {variant: [s["us"] for s in values] for variant, values in samples.items()}
    added = {v.removeprefix("sluice-"): measure.difference(us[v], us["sluice"]) for v in us if v != "sluice"}
    return added, samples


def idle(make, count, workdir):
    """Bytes a connection above what the proxy had at its start. Each kind gets a process of its own, so that neither
    finds memory that the other has left."""
    figures = {}
    for kind in ("plain", "tls"):
        proxy = make()
        proxy.start(workdir)
        try:
            figures["start"] = before = proxy.resident()
            held = clients.idle(proxy, count, kind == "tls")
            time.sleep(1)
            figures[kind] = (proxy.resident() - before) / count
            for connection in held:
                connection.close()
        finally:
            proxy.stop()
        progress(f"idle: {proxy.name} {kind} {figures[kind] / 1024:.1f} KiB a connection")
    return figures


def progress(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
