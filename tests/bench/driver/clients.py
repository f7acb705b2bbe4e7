"""The load: wrk for HTTP/1.1, h2load for HTTP/2, plain sockets for connections that do nothing."""

import re
import resource
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .proxies import CLIENT_CORE
from .sluice_config import HOSTS, ROUTES

SPREAD = Path(__file__).resolve().parent.parent / "spread.lua"


@dataclass
class Load:
    requests: int
    failed: int
    p50_us: float = float("nan")
    p99_us: float = float("nan")


def wrk(url, seconds, connections, close=False):
    command = ["taskset", "-c", CLIENT_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SPREAD), url,
               "--", str(HOSTS), str(ROUTES), "close" if close else "keep"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"RESULT requests=(\d+) us=\d+ failed=(\d+) p50=(\d+) p99=(\d+)", text)
    if not found:
        raise SystemExit(f"wrk said nothing of use:\n{text}")
    requests, failed, p50, p99 = map(int, found.groups())
    return Load(requests, failed, p50, p99)


def keep_alive(proxy, seconds, workdir):
    return wrk(f"http://127.0.0.1:{proxy.plain}/", seconds, 48)


def keep_alive_tls(proxy, seconds, workdir):
    return wrk(f"https://127.0.0.1:{proxy.tls}/", seconds, 48)


def new_tls(proxy, seconds, workdir):
    return wrk(f"https://127.0.0.1:{proxy.tls}/", seconds, 48, close=True)


def http2(proxy, seconds, workdir):
    """h2load sends one authority a process, so all hosts are reached by turns: 20 at a time, a connection each."""
    width, per_connection = 20, max(200, int(seconds * 250))
    paths = workdir / "paths"
    paths.write_text("".join(f"https://127.0.0.1:{proxy.tls}/r{n}/item\n" for n in range(ROUTES)))
    requests = failed = 0
    for first in range(0, HOSTS, width):
        running = [
            subprocess.Popen(
                ["taskset", "-c", CLIENT_CORE, "h2load", "-c1", "-m8", "-n", str(per_connection), "-i", str(paths),
                 "-H", f":authority: h{host}.bench.example"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for host in range(first, first + width)
        ]
        for process in running:
            text, _ = process.communicate()
            codes = re.search(r"status codes: (\d+) 2xx", text)
            done = int(codes.group(1)) if codes else 0
            requests += done
            failed += per_connection - done
    return Load(requests, failed)


SCENARIOS = {
    "h1 keep-alive": keep_alive,
    "h1 over TLS": keep_alive_tls,
    "new TLS connection a request": new_tls,
    "h2 over TLS": http2,
}


def idle(proxy, count, tls):
    """Opens connections, sends one request on each, and keeps them. Gives the sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    held = []
    for n in range(count):
        connection = socket.create_connection(("127.0.0.1", proxy.tls if tls else proxy.plain), 10)
        if tls:
            connection = context.wrap_socket(connection, server_hostname="h0.bench.example")
        host, route = n % HOSTS, n % ROUTES
        connection.sendall(f"GET /r{route}/item HTTP/1.1\r\nHost: h{host}.bench.example\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"abcde\n"):
            piece = connection.recv(4096)
            if not piece:
                raise SystemExit(f"{proxy.name} closed an idle connection: {answer!r}")
            answer += piece
        held.append(connection)
    return held
