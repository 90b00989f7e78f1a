"""vip-manager, as Debian has it, each in a network namespace of its own.

Its version 1 reads etcd through the v2 API only, which shows no key of v3: what is stored, in
whichever DCS, is read by a function here, and told to it in v2's words.
"""

import ctypes
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest

from tests.cluster.command import clean_environment

_CLONE_NEWNET = 0x40000000
_DEVICE, _OWN, _VIP = "vip0", "10.99.0.1/24", "10.99.0.7"
_ENDPOINT = ("127.0.0.1", 2379)
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count()


def skip_if_missing() -> None:
    """Skip the test where it cannot run."""
    if shutil.which("vip-manager") is None:
        pytest.skip("vip-manager is not installed: apt-get install vip-manager")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


class VipManager:
    """Has the address while `leader` returns `name`. `key` is only what it asks for."""

    def __init__(self, name: str, key: str, leader: Callable[[], str | None]) -> None:
        self._name = name
        self._key = key
        self._leader = leader
        self._namespace = f"pgregent-vip-{os.getpid()}-{next(_numbers)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "VipManager":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        _ip("netns", "add", self._namespace)
        # A module for a device of type dummy is not everywhere.
        self._inside("link", "add", _DEVICE, "type", "veth", "peer", "name", "vip1")
        self._inside("addr", "add", _OWN, "dev", _DEVICE)
        for device in ("lo", _DEVICE, "vip1"):
            self._inside("link", "set", device, "up")
        self._server = _serve(self._listener(), self._key, self._leader)
        self._process = subprocess.Popen(
            (
                *("ip", "netns", "exec", self._namespace, "vip-manager", "--ip", _VIP),
                *("--netmask", "24", "--interface", _DEVICE, "--interval", "100"),
                *("--trigger-key", self._key, "--trigger-value", self._name),
                *("--dcs-type", "etcd", "--dcs-endpoints", "http://{}:{}".format(*_ENDPOINT)),
            ),
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        subprocess.run(("ip", "netns", "del", self._namespace), capture_output=True, check=False)

    @property
    def has_address(self) -> bool:
        """Whether the address is up here; AssertionError where vip-manager has ended."""
        assert self._process is not None and self._process.poll() is None, "vip-manager has ended"
        return f" {_VIP}/" in self._inside("-4", "-o", "addr", "show", "dev", _DEVICE)

    def _inside(self, *arguments: str) -> str:
        return _ip("-n", self._namespace, *arguments)

    def _listener(self) -> socket.socket:
        """A socket stays in the namespace of the thread that has made it."""
        made: list[socket.socket] = []

        def make() -> None:
            with open(f"/run/netns/{self._namespace}", "rb") as namespace:
                assert _libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0
            made.append(socket.create_server(_ENDPOINT))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]


def _ip(*arguments: str) -> str:
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _serve(
    listener: socket.socket, key: str, leader: Callable[[], str | None]
) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            value = leader() if self.path.partition("?")[0] == f"/v2/keys{key}" else None
            status, document = (200, _node(key, value)) if value else (404, _not_found(key))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(_ENDPOINT, Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def _node(key: str, value: str) -> dict[str, Any]:
    node = {"key": key, "value": value, "modifiedIndex": 1, "createdIndex": 1}
    return {"action": "get", "node": node}


def _not_found(key: str) -> dict[str, Any]:
    return {"errorCode": 100, "message": "Key not found", "cause": key, "index": 1}
