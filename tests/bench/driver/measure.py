"""Rounds and what is made of them: paired by round, so that what the machine does to one it does to all."""

import random
import statistics


def upper_bound(values, confidence=0.95, draws=4000):
    """The one-sided upper bound of the median by bootstrap, with a fixed seed."""
    generator = random.Random(20)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(draws))
    return medians[min(draws - 1, int(draws * confidence))]


def ratio(ours, theirs):
    """Median and upper bound of the paired ratios."""
    pairs = [a / b for a, b in zip(ours, theirs)]
    return {"median": statistics.median(pairs), "upper": upper_bound(pairs)}


def difference(with_it, without_it):
    """Median and upper bound of the paired differences."""
    pairs = [a - b for a, b in zip(with_it, without_it)]
    return {"median": statistics.median(pairs), "upper": upper_bound(pairs)}


def cpu_per_request(proxy, scenario, seconds, workdir):
    before = proxy.cpu_seconds()
    load = scenario(proxy, seconds, workdir)
    spent = proxy.cpu_seconds() - before
    if load.requests == 0 or load.failed:
        raise SystemExit(f"{proxy.name}: {load.failed} failed of {load.requests + load.failed}: no figure from that")
    return {"us": spent * 1e6 / load.requests, "requests": load.requests, "p50_us": load.p50_us, "p99_us": load.p99_us}


def interleaved(proxies, scenarios, rounds, seconds, workdir, progress):
    """{scenario: {proxy: [one sample a round]}}; the order of proxies rotates."""
    samples = {name: {p.name: [] for p in proxies} for name in scenarios}
    for number in range(-1, rounds):
        for name, scenario in scenarios.items():
            turn = number % len(proxies)
            for proxy in proxies[turn:] + proxies[:turn]:
                sample = cpu_per_request(proxy, scenario, seconds, workdir)
                # The first round fills pools and caches and is not counted.
                if number >= 0:
                    samples[name][proxy.name].append(sample)
                progress(f"round {number + 1}/{rounds} {name}: {proxy.name} {sample['us']:.1f} us/request")
    return samples
