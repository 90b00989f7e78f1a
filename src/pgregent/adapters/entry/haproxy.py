"""haproxy.cfg for a cluster: who is routed to, how clients are held, and what the checks ask.

HAProxy asks itself. Each check goes to a listener of its own, which answers as the watch said
lately (`WATCH_TABLE`, entries of `WATCH_EXPIRES_S`), and passes the question on to the agent
where the watch is silent. So the watch's word is over with the watch, whatever it said last.
"""

import ipaddress
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgregent.core.errors import Refused

PRIMARY = "primary"
REPLICA = "replica"
"""The listeners; each server in them is checked under /LISTENER/NAME."""
WATCH_TABLE = "watch"
WATCH_EXPIRES_S = 2.0
CONNECT_MS = 80
"""Also the pause between two attempts of a held client, so that much later it is let in."""
HOLD_S_MAX = 600.0
CLIENTS_MAX = 1000
_SOCKET_PATH_BYTES_MAX = 97  # HAProxy appends to it while it binds
_ADDRESS = re.compile(r"[A-Za-z0-9_.:*-]+")


@dataclass(frozen=True, slots=True)
class Node:
    """A member: where its PostgreSQL and its agent's REST API are reached."""

    name: str
    host: str
    port: int
    api_host: str
    api_port: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What to listen on, and how long a client is held (`hold`, 0 to 600 s)."""

    port: int = 5432
    ro_port: int = 5433
    stats_ports: tuple[int, ...] = (7000,)
    check_port: int = 7001
    """On 127.0.0.1: where HAProxy asks itself."""
    socket: str = "/run/haproxy/admin.sock"
    """The runtime API: an absolute path, or host:port."""
    hold: float = 15.0


@dataclass(frozen=True, slots=True)
class Tls:
    """How agents whose port uses TLS are asked: `ca_file` has the authorities that their
    certificates are checked against (None: they are not checked), `crt` is the certificate that
    HAProxy shows (None: none). HAProxy compares names, not addresses."""

    ca_file: str | None
    crt: str | None = None


def render(nodes: Iterable[Node], entry: Entry, tls: Tls | None = None) -> str:
    """The whole haproxy.cfg. Raises Refused where HAProxy would not start."""
    nodes = tuple(nodes)
    _check(nodes, entry)
    sections = [
        _global(entry, tls),
        _DEFAULTS,
        _stats(entry),
        _listener(PRIMARY, entry.port, entry),
        *(_server(node, entry) for node in nodes),
        _HOLDER,
        _listener(REPLICA, entry.ro_port, entry),
        *(_server(node, entry) for node in nodes),
        *(_fallback(node) for node in nodes),
        _HOLDER,
        _checks(entry),
        *(_agent(node, tls) for node in nodes),
        _TABLE,
    ]
    return "".join(sections)


def key_of(crt: Path) -> Path:
    """Where HAProxy looks for a private key that the certificate's file does not hold."""
    return crt.with_suffix(".key") if crt.suffix == ".crt" else crt.with_name(f"{crt.name}.key")


def socket_address(socket: str) -> tuple[str, int] | str:
    """Where the runtime API listens: (host, port), or a path. Raises Refused."""
    if socket.startswith("/"):
        if len(socket.encode()) > _SOCKET_PATH_BYTES_MAX or re.search(r"\s|[\"'\\#$]", socket):
            raise Refused(
                f"--socket: found {socket!r}, expected at most {_SOCKET_PATH_BYTES_MAX} bytes "
                "without spaces and quotes"
            )
        return socket
    host, _, port = socket.rpartition(":")
    if not _ADDRESS.fullmatch(host) or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise Refused(f"--socket: found {socket!r}, expected an absolute path or host:port")
    return host, int(port)


def _check(nodes: tuple[Node, ...], entry: Entry) -> None:
    if not nodes:
        raise Refused("no member is given: name each agent's YAML file")
    if not 0 <= entry.hold <= HOLD_S_MAX:
        raise Refused(f"--hold: found {entry.hold:g}, expected 0 to {HOLD_S_MAX:g} seconds")
    ports = {"--port": entry.port, "--ro-port": entry.ro_port, "--check-port": entry.check_port}
    ports |= {f"--stats-port {port}": port for port in entry.stats_ports}
    used: dict[int, str] = {}
    for option, port in ports.items():
        if port in used:
            raise Refused(f"{option}: port {port} is taken by {used[port]}: choose another")
        used[port] = option
    socket_address(entry.socket)
    for node in nodes:
        for host in (node.host, node.api_host):
            if not _ADDRESS.fullmatch(host) or "*" in host:
                raise Refused(f"{node.name}: found the address {host!r}, expected one host")


def _global(entry: Entry, tls: Tls | None) -> str:
    match socket_address(entry.socket):
        case str(path):
            socket = f"{path} mode 660 level admin"
        case (host, port):
            socket = f"{host}:{port} level admin"
    shows_crt = tls is not None and tls.crt is not None and tls.crt.endswith(".crt")
    key = "    ssl-load-extra-del-ext\n" * shows_crt
    # The checks need room when the listeners have none left.
    return f"""\
# Written by `pgregent haproxy config`.
global
    maxconn {2 * CLIENTS_MAX + 500}
    stats socket {socket}
    stats timeout 30s
{key}
resolvers names
    # A member that was restarted may have a new address.
    parse-resolv-conf
    accepted_payload_size 8192
    timeout resolve 1s
    timeout retry 500ms
    # What the name service does not know any more stays as it was: the checks tell.
    hold nx 20d
    hold other 20d
    hold refused 20d
    hold timeout 20d
    hold valid 1s

"""


_DEFAULTS = f"""\
defaults tcp
    mode tcp
    timeout connect {CONNECT_MS}ms
    timeout client 30m
    timeout server 30m
    timeout check 1s
    option clitcpka
    clitcpka-idle 30s
    clitcpka-intvl 10s
    clitcpka-cnt 3
    option srvtcpka
    srvtcpka-idle 30s
    srvtcpka-intvl 10s
    srvtcpka-cnt 3

defaults http
    mode http
    timeout connect 500ms
    timeout client 30s
    timeout server 900ms
    timeout check 1s
    retries 0

defaults agent from http
    option httpchk OPTIONS /liveness
    http-check expect rstatus .
    http-request set-path /%[path,field(2,/)]
    http-response set-var(txn.answered) bool(true)
    # An agent that is being restarted cuts no session; one that is silent for 3 s does.
    http-after-response set-status 404 unless {{ var(txn.answered) -m bool }} || {{ nbsrv lt 1 }}

"""
_HOLDER = """\
    # Refuses all: while no other server is up, clients come here, and try again.
    server :hold 127.0.0.1:1 backup

"""
_TABLE = f"""
backend {WATCH_TABLE} from http
    stick-table type string len 128 size 1k expire {WATCH_EXPIRES_S:g}s store gpt0
"""


def _stats(entry: Entry) -> str:
    binds = "".join(f"    bind *:{port}\n" for port in entry.stats_ports)
    return f"listen stats from http\n{binds}    stats enable\n    stats uri /\n\n"


def _listener(name: str, port: int, entry: Entry) -> str:
    # At its start HAProxy takes every server for up until its first check.
    guard = """\
    tcp-request inspect-delay 300ms
    tcp-request content accept if { nbsrv lt 2 } || WAIT_END
""" * (name == PRIMARY)
    return f"""\
listen {name} from tcp
    bind *:{port}
    maxconn {CLIENTS_MAX}
    balance leastconn
    # A client is held for {entry.hold:g} s: it tries again every {CONNECT_MS} ms.
    retries {math.ceil(entry.hold * 1000 / CONNECT_MS)}
    option redispatch 1
    option httpchk
    http-check send meth OPTIONS uri-lf /%[be_name]/%[srv_name]
    http-check expect status 200
    http-check disable-on-404
    default-server inter 100ms fastinter 25ms fall 2 rise 2 on-marked-down shutdown-sessions
{guard}"""


def _server(node: Node, entry: Entry) -> str:
    address = _resolved(node.host, node.port)
    return f"    server {node.name} {address} check addr 127.0.0.1 port {entry.check_port}\n"


def _fallback(node: Node) -> str:
    address = _resolved(node.host, node.port)
    return f"    server {node.name}:{PRIMARY} {address} track {PRIMARY}/{node.name} backup\n"


def _resolved(host: str, port: int) -> str:
    ip = _ip(host)
    if ip is not None:
        return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    if host == "localhost":
        # No name service knows it.
        return f"{host}:{port}"
    return f"{host}:{port} resolvers names resolve-prefer ipv4 init-addr libc,none"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _checks(entry: Entry) -> str:
    answers = "".join(
        f"    http-request return status {code} if {{ path,table_gpt0({WATCH_TABLE}) eq {code} }}\n"
        for code in (200, 404, 503)
    )
    return f"""\
frontend checks from http
    bind 127.0.0.1:{entry.check_port}
    # 200: up. 404: no new sessions, but those there are stay. 503: down, and sessions are cut.
{answers}\
    use_backend agent_%[path,field(3,/)]

"""


def _agent(node: Node, tls: Tls | None) -> str:
    address = _resolved(node.api_host, node.api_port)
    words = "" if tls is None else _with_tls(tls, node.api_host)
    return f"""\
backend agent_{node.name} from agent
    server {node.name} {address} check inter 500ms fall 6 rise 1{words}
"""


def _with_tls(tls: Tls, host: str) -> str:
    crt = "" if tls.crt is None else f" crt {tls.crt}"
    if tls.ca_file is None:
        return f" ssl verify none{crt}"
    name = "" if _ip(host) else f" verifyhost {host}"
    return f" ssl verify required ca-file {tls.ca_file}{name}{crt}"
