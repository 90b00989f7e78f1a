"""The DCS of a chaos cluster, ZooKeeper or etcd: how its servers start, and which of them leads."""

import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.conformance.zookeeper_servers import JAR, JARS, JAVA_OPTIONS, MAIN

_ZOOKEEPER_PORT, _ETCD_PORT = 2181, 2379
_ANSWER_S = 0.5


def _zookeeper(folder: Path, number: int, addresses: Sequence[str]) -> list[str]:
    (folder / "data").mkdir(parents=True)
    lines: dict[str, object] = {
        "tickTime": 500,
        "initLimit": 20,
        "syncLimit": 6,
        "maxSessionTimeout": 60000,
        "dataDir": folder / "data",
        "4lw.commands.whitelist": "srvr",
        "maxClientCnxns": 0,
        "clientPort": _ZOOKEEPER_PORT,
        "clientPortAddress": addresses[number],
    }
    if len(addresses) > 1:
        (folder / "data" / "myid").write_text(f"{number + 1}\n")
        lines |= {f"server.{i}": f"{a}:2888:3888" for i, a in enumerate(addresses, 1)}
    (folder / "zoo.cfg").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
    class_path = f"{JAR}:{JARS}/netty-codec.jar:{JARS}/netty-resolver.jar"
    return ["java", *JAVA_OPTIONS, "-cp", class_path, MAIN, str(folder / "zoo.cfg")]


def _zookeeper_leads(address: str) -> bool:
    with (
        suppress(OSError),
        socket.create_connection((address, _ZOOKEEPER_PORT), _ANSWER_S) as sock,
    ):
        sock.sendall(b"srvr")
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
        return b"\nMode: leader" in answer or b"\nMode: standalone" in answer
    return False


def _etcd(folder: Path, number: int, addresses: Sequence[str]) -> list[str]:
    peers = [f"http://{address}:2380" for address in addresses]
    client = f"http://{addresses[number]}:{_ETCD_PORT}"
    options = {
        "name": number,
        "data-dir": folder,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peers[number],
        "initial-advertise-peer-urls": peers[number],
        "initial-cluster": ",".join(f"{i}={peer}" for i, peer in enumerate(peers)),
        # As from 3.5 on by default: a member that was cut off does not depose the leader.
        "pre-vote": "true",
        "logger": "zap",
    }
    return ["etcd", *(f"--{k}={v}" for k, v in options.items())]


def _etcd_leads(address: str) -> bool:
    connection = HTTPConnection(address, _ETCD_PORT, timeout=_ANSWER_S)
    try:
        connection.request("POST", "/v3/maintenance/status", b"{}")
        status = json.loads(connection.getresponse().read())
        return "leader" in status and status["leader"] == status["header"]["member_id"]
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Dcs:
    """One kind; its servers listen on `port`, and agents find them by `section` of their files."""

    section: str
    port: int
    command: Callable[[Path, int, Sequence[str]], list[str]]
    """The command of the server at one of all addresses, by its number from 0. It keeps what it
    needs in the folder, which does not exist yet."""
    leads: Callable[[str], bool]
    """Whether the server at an address leads, alone or others; it has 0.5 s to say so."""


DCS = {
    "zookeeper": Dcs("zookeeper", _ZOOKEEPER_PORT, _zookeeper, _zookeeper_leads),
    "etcd": Dcs("etcd3", _ETCD_PORT, _etcd, _etcd_leads),
}
