"""The load over TCP and UDP: `python3 -m driver.stream_load KIND PORT SECONDS COUNT`. Prints one line of JSON: what was done, what
failed, and the quantiles of a round trip in microseconds."""

import json
import resource
import selectors
import socket
import struct
import sys
import time

MESSAGE = bytes(64)
DOWNLOAD = 32 << 20
MB = 1_000_000
# A datagram without an answer for so long is lost.
LOST = 1.0


def quantiles(times):
    times.sort()
    at = lambda q: times[int((len(times) - 1) * q)] * 1e6 if times else float("nan")
    return {"p50_us": at(0.5), "p99_us": at(0.99)}


def connect(port):
    stream = socket.create_connection(("127.0.0.1", port), 10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def bulk(port, seconds, count):
    """As many connections at once, each of which is sent as much as it takes. Whole MB are counted."""
    buffer = bytearray(1 << 20)
    chosen = selectors.DefaultSelector()
    left = {}
    for _ in range(count):
        stream = connect(port)
        stream.sendall(struct.pack("!Q", DOWNLOAD))
        stream.setblocking(False)
        left[stream] = DOWNLOAD
        chosen.register(stream, selectors.EVENT_READ)
    got, failed, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in chosen.select(0.1):
            length = key.fileobj.recv_into(buffer)
            if length == 0:
                failed += 1
                chosen.unregister(key.fileobj)
                continue
            got += length
            left[key.fileobj] -= length
            if left[key.fileobj] == 0:
                left[key.fileobj] = DOWNLOAD
                key.fileobj.sendall(struct.pack("!Q", DOWNLOAD))
    return {"done": got // MB, "failed": failed}


def exchanges(chosen, seconds, times):
    """Each socket says something and waits for the answer, until the time is over. Gives how many were answered, and what is
    still waited for."""
    sent = {}
    for key in list(chosen.get_map().values()):
        sent[key.fileobj] = time.monotonic()
        key.fileobj.send(MESSAGE)
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in chosen.select(0.1):
            if len(key.fileobj.recv(2048)) == 0:
                raise SystemExit("a connection was closed")
            now = time.monotonic()
            times.append(now - sent[key.fileobj])
            sent[key.fileobj] = now
            key.fileobj.send(MESSAGE)
            done += 1
    return done, sent


def round_trips(port, seconds, count):
    chosen = selectors.DefaultSelector()
    for _ in range(count):
        stream = connect(port)
        stream.sendall(struct.pack("!Q", 0))
        stream.setblocking(False)
        chosen.register(stream, selectors.EVENT_READ)
    times = []
    done, _ = exchanges(chosen, seconds, times)
    return {"done": done, "failed": 0, **quantiles(times)}


def connections(port, seconds, count):
    """A connection an exchange, one after the other."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        with connect(port) as stream:
            stream.sendall(struct.pack("!Q", 0) + MESSAGE)
            got = 0
            while got < len(MESSAGE):
                piece = len(stream.recv(2048))
                if piece == 0:
                    raise SystemExit("a connection was closed")
                got += piece
        times.append(time.monotonic() - began)
    return {"done": len(times), "failed": 0, **quantiles(times)}


def client(port):
    socket_ = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    socket_.connect(("127.0.0.1", port))
    socket_.setblocking(False)
    return socket_


def datagrams(port, seconds, count):
    """Datagrams are counted in either direction: an exchange is two."""
    chosen = selectors.DefaultSelector()
    for _ in range(count):
        chosen.register(client(port), selectors.EVENT_READ)
    times, lost = [], 0
    done, sent = exchanges(chosen, seconds, times)
    end = time.monotonic() + LOST
    waiting = set(sent)
    while waiting and time.monotonic() < end:
        for key, _ in chosen.select(0.05):
            key.fileobj.recv(2048)
            waiting.discard(key.fileobj)
    lost = len(waiting)
    return {"done": done * 2, "failed": 0, "lost": lost, **quantiles(times)}


def sessions(port, seconds, count):
    """As many clients, a datagram each, a hundred at a time, again and again: every one in a session of its own."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    clients = [client(port) for _ in range(count)]
    chosen = selectors.DefaultSelector()
    done = lost = wrong = 0
    end = time.monotonic() + seconds
    first = True
    while first or time.monotonic() < end:
        first = False
        for at in range(0, count, 100):
            group = clients[at:at + 100]
            for n, socket_ in enumerate(group, at):
                chosen.register(socket_, selectors.EVENT_READ, n)
                socket_.send(struct.pack("!Q", n) + MESSAGE)
            until = time.monotonic() + LOST
            while chosen.get_map() and time.monotonic() < until:
                for key, _ in chosen.select(0.05):
                    (number,) = struct.unpack("!Q", key.fileobj.recv(2048)[:8])
                    wrong += number != key.data
                    done += 1
                    chosen.unregister(key.fileobj)
            lost += len(chosen.get_map())
            for key in list(chosen.get_map().values()):
                chosen.unregister(key.fileobj)
    return {"done": done * 2, "failed": wrong, "lost": lost}


KINDS = {"bulk": bulk, "round-trips": round_trips, "connections": connections, "datagrams": datagrams, "sessions": sessions}


if __name__ == "__main__":
    kind, port, seconds, count = sys.argv[1:]
    print(json.dumps(KINDS[kind](int(port), float(seconds), int(count))))
