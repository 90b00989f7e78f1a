"""Passes Ethernet frames between two interfaces, each of them so many seconds late.

slow_cable.py INTERFACE INTERFACE SECONDS. Runs until killed, in the namespace of both.
"""

import heapq
import selectors
import socket
import struct
import sys
import time

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 1, 1
# Each frame comes with what the kernel left to do for it (checksum, segments), and takes it along.
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_ETH_P_ALL = 3
_LARGEST = 1 << 17
_MOST = 20_000


def opened(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind((interface, _ETH_P_ALL))
    index = socket.if_nametoindex(interface)
    request = struct.pack("iHH8s", index, _PACKET_MR_PROMISC, 0, b"")
    sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
    sock.setblocking(False)
    return sock


def main() -> None:
    one, other, seconds = opened(sys.argv[1]), opened(sys.argv[2]), float(sys.argv[3])
    selector = selectors.DefaultSelector()
    selector.register(one, selectors.EVENT_READ, other)
    selector.register(other, selectors.EVENT_READ, one)
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    number = 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for key, _ in selector.select(wait):
            source: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                frame = source.recv(_LARGEST)
            except OSError:
                continue
            if len(waiting) < _MOST:
                number += 1
                heapq.heappush(waiting, (time.monotonic() + seconds, number, key.data, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(waiting)
            try:
                target.send(frame)
            except OSError:
                continue  # as a full cable would


if __name__ == "__main__":
    main()
