"""What is measured: each proxy as a process pinned to one core, with a plain and a TLS port."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import sluice_config

PROXY_CORE = "0"
CLIENT_CORE = "1"
PEERS = Path(__file__).resolve().parent.parent / "peers"


@dataclass
class Proxy:
    name: str
    plain: int
    tls: int
    command: list
    process: subprocess.Popen = field(default=None, repr=False)

    def start(self, workdir, core=PROXY_CORE, cwd=None):
        log = open(workdir / f"{self.name}.out", "wb")
        self.process = subprocess.Popen(
            ["taskset", "-c", core, *self.command], cwd=cwd or workdir, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        for port in filter(None, (self.plain, self.tls)):
            wait_for(port, self)

    def pids(self):
        """The process and its children (nginx's worker is one)."""
        root = self.process.pid
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
        return [root, *map(int, children)]

    def cpu_seconds(self):
        """User and system time, all threads, those that ended too."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident(self):
        """Bytes of VmRSS."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def wait_for(port, proxy, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if proxy.process.poll() is not None:
            raise SystemExit(f"{proxy.name} ended with {proxy.process.returncode}; see its .out file")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{proxy.name} does not listen on {port}")


def wait_for_answer(proxy, seconds=120):
    """A plugin is compiled behind an open port; until then what it guards is answered 503."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.plain, timeout=10)
        connection.request("GET", "/r0/item", headers={"Host": "h0.bench.example"})
        status = connection.getresponse().status
        connection.close()
        if status == 200:
            return
        time.sleep(0.05)
    raise SystemExit(f"{proxy.name} answers {status}")


def backend():
    return Proxy("backend", 19000, 0, ["nginx", "-p", "./", "-c", "backend.conf"])


def peers():
    bare = os.environ["BARE_PINGORA_BIN"]
    envoy = os.environ["ENVOY_BIN"]
    return [
        Proxy("bare-pingora", 19100, 19101,
              [bare, "127.0.0.1:19100", "127.0.0.1:19101", "127.0.0.1:19000", "leaf.crt", "leaf.key"]),
        Proxy("nginx", 19110, 19111, ["nginx", "-p", "./", "-c", "nginx.conf"]),
        Proxy("haproxy", 19120, 19121, ["haproxy", "-db", "-f", "haproxy.cfg"]),
        Proxy("envoy", 19130, 19131,
              [envoy, "-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart",
               "--log-level", "error"]),
    ]


def sluice(name, plain, workdir, plugin=None, extra=()):
    """Sluice with 1,000 routes, metrics and access log on. `plugin`: None, "Fresh" or "Pooled"."""
    folder = workdir / name
    shutil.rmtree(folder, ignore_errors=True)
    sluice_config.write(folder / "config", plain, plain + 1, workdir, plugin)
    (folder / "state").mkdir()
    command = [
        os.environ["SLUICE_BIN"], "run", "--config", str(folder / "config"),
        "--metrics-address", f"127.0.0.1:{plain + 2}", "--admin-address", f"127.0.0.1:{plain + 3}",
        "--access-log", str(folder / "access.log"), "--state-dir", str(folder / "state"), *extra,
    ]
    return Proxy(name, plain, plain + 1, command)


def prepare(workdir):
    """The peers' configurations, and one ECDSA P-256 leaf for everybody, in the folder where all of them run."""
    shutil.copytree(PEERS, workdir, dirs_exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", "/CN=bench.example", "-addext", "subjectAltName=DNS:*.bench.example,DNS:bench.example",
         "-keyout", "leaf.key", "-out", "leaf.crt"],
        cwd=workdir, check=True, capture_output=True,
    )
    (workdir / "leaf.pem").write_text((workdir / "leaf.crt").read_text() + (workdir / "leaf.key").read_text())
