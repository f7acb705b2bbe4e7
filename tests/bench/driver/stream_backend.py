"""The backend of TCP and UDP: `python3 -m driver.stream_backend PORT`. One process, one thread.

TCP: a connection begins with eight bytes, a number. Above 0 so many bytes are sent, and then the next number is read; at 0 what
comes is given back as it is. UDP: each datagram is given back."""

import selectors
import socket
import struct
import sys

PIECE = bytes(256 * 1024)


class Connection:
    def __init__(self, stream):
        self.stream = stream
        self.head = b""
        self.owed = 0
        self.echoes = False
        self.back = b""

    def readable(self):
        """False: it is over."""
        try:
            data = self.stream.recv(65536)
        except ConnectionError:
            return False
        if not data:
            return False
        if self.echoes:
            self.back += data
            return self.writable()
        self.head += data
        while not self.owed and len(self.head) >= 8:
            (self.owed,) = struct.unpack("!Q", self.head[:8])
            self.head = self.head[8:]
            if self.owed == 0:
                self.echoes, self.back, self.head = True, self.head, b""
                break
        return self.writable()

    def writable(self):
        try:
            if self.echoes:
                while self.back:
                    self.back = self.back[self.stream.send(self.back):]
            while self.owed:
                self.owed -= self.stream.send(memoryview(PIECE)[:self.owed])
        except BlockingIOError:
            pass
        except ConnectionError:
            return False
        return True

    def waits_to_write(self):
        return bool(self.owed or self.back)


def main():
    port = int(sys.argv[1])
    chosen = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    datagrams.bind(("127.0.0.1", port))
    for opened in (listener, datagrams):
        opened.setblocking(False)
        chosen.register(opened, selectors.EVENT_READ)
    while True:
        for key, events in chosen.select():
            if key.fileobj is listener:
                accept(listener, chosen)
            elif key.fileobj is datagrams:
                echo(datagrams)
            else:
                serve(key, events, chosen)


def accept(listener, chosen):
    while True:
        try:
            stream, _ = listener.accept()
        except BlockingIOError:
            return
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        chosen.register(stream, selectors.EVENT_READ, Connection(stream))


def echo(datagrams):
    for _ in range(64):
        try:
            data, client = datagrams.recvfrom(2048)
            datagrams.sendto(data, client)
        except BlockingIOError:
            return
        except ConnectionError:
            continue


def serve(key, events, chosen):
    connection = key.data
    alive = True
    if events & selectors.EVENT_WRITE:
        alive = connection.writable()
    if alive and events & selectors.EVENT_READ:
        alive = connection.readable()
    if not alive:
        chosen.unregister(key.fileobj)
        key.fileobj.close()
        return
    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.waits_to_write() else 0)
    if wanted != key.events:
        chosen.modify(key.fileobj, wanted, connection)


if __name__ == "__main__":
    main()
