"""A cluster whose agents use TLS with client certificates, driven with curl as people do it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.api.certificates import Authority
from tests.cluster.command import COMMAND, clean_environment, run_cli
from tests.cluster.plain import free_ports, make_directory, own
from tests.cluster.processes import kill_all_of

HOST = "127.0.0.1"
NAMES = ("n1", "n2", "n3")
_LIMIT_S = 60.0
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")


def until(what: str, holds: Callable[[], Any], limit: float = _LIMIT_S) -> Any:
    """What it returns, once that is true."""
    end = time.monotonic() + limit
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        time.sleep(0.05)
    return found


@dataclass
class Secured:
    """Three agents with their own files, started and stopped by this test."""

    base: Path
    bin_dir: Path
    authority: Authority
    rest: dict[str, int] = field(default_factory=dict[str, int])
    port: dict[str, int] = field(default_factory=dict[str, int])
    agents: dict[str, "subprocess.Popen[bytes]"] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"]
    )

    def make(self) -> None:
        """The files, and the client's certificate."""
        ports = free_ports(2 * len(NAMES))
        self.client = self.authority.issue("operator")
        for name in NAMES:
            self.rest[name], self.port[name] = ports.pop(), ports.pop()
            place = self.base / name
            place.mkdir(mode=0o711)
            own(place)
            self.write(name)

    def write(self, name: str, **sections: Any) -> None:
        """The agent's file."""
        certificate = self.authority.file.parent / f"{name}.pem"
        if not certificate.exists():
            self.authority.issue(name)
        role = {"username": "postgres", "password": "one"}
        content = {
            "scope": "secured",
            "name": name,
            "restapi": {
                "listen": f"{HOST}:{self.rest[name]}",
                "authentication": {"username": "admin", "password": "open sesame"},
                "certfile": str(certificate),
                "keyfile": str(certificate.with_suffix(".key")),
                "cafile": str(self.authority.file),
                "verify_client": "required",
            },
            "local": {"path": str(self.base / "dcs.sqlite")},
            "bootstrap": {"dcs": {"synchronous_mode": "quorum"}},
            "postgresql": {
                "listen": f"{HOST}:{self.port[name]}",
                "data_dir": str(self.base / name / "data"),
                "bin_dir": str(self.bin_dir),
                "authentication": {
                    "superuser": role,
                    "replication": {"username": "replicator", "password": "two"},
                },
                "parameters": {"shared_buffers": "16MB"},
            },
            **sections,
        }
        file = self.base / f"{name}.yml"
        file.write_text(yaml.safe_dump(content))
        file.chmod(0o600)

    def start(self, name: str) -> None:
        """Its agent."""
        with (self.base / f"{name}.log").open("ab") as log:
            self.agents[name] = subprocess.Popen(
                (*COMMAND, "agent", str(self.base / f"{name}.yml")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=clean_environment(),
            )

    def log(self, name: str) -> str:
        """What its agent logged."""
        return (self.base / f"{name}.log").read_text()

    def curl(self, name: str, path: str, *options: str) -> tuple[int, str]:
        """The status, 0 without an answer, and the body."""
        certificate, key = self.client
        done = subprocess.run(
            (
                *("curl", "-sS", "-m", "40", "-w", "\n%{http_code}"),
                *("--cacert", str(self.authority.file)),
                *("--cert", str(certificate), "--key", str(key), *options),
                f"https://{HOST}:{self.rest[name]}{path}",
            ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        body, _, code = done.stdout.rpartition("\n")
        return int(code or 0), body

    def change(self, name: str, verb: str, path: str, body: Any) -> tuple[int, str]:
        """A request of the operator."""
        data = ("-X", verb, "-u", "admin:open sesame", "-d", json.dumps(body))
        return self.curl(name, path, *data)

    def document(self, name: str, path: str) -> Any:
        """What it says."""
        return json.loads(self.curl(name, path)[1] or "{}")

    def primary(self) -> str:
        """Who serves, or ""."""
        serving = [name for name in NAMES if self.curl(name, "/primary")[0] == 200]
        return serving[0] if len(serving) == 1 else ""

    def whole(self) -> str:
        """Who serves, once two standbys stream and everybody hears everybody."""
        members = self.document("n1", "/cluster").get("members", [])
        states = sorted(m["state"] for m in members)
        return self.primary() if states == ["running", "streaming", "streaming"] else ""

    def show(self, name: str, parameter: str) -> str:
        """What its PostgreSQL works with."""
        with psycopg.connect(
            host=HOST, port=self.port[name], user="postgres", password="one", dbname="postgres"
        ) as connection:
            row = connection.execute("SELECT current_setting(%s)", (parameter,)).fetchone()
        assert row
        return str(row[0])

    def stop(self) -> None:
        """All of it; what does not end is killed."""
        for agent in self.agents.values():
            agent.send_signal(signal.SIGINT)
        for agent in self.agents.values():
            try:
                agent.wait(20)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
        kill_all_of(self.base)
        shutil.rmtree(self.base, ignore_errors=True)


@pytest.fixture(scope="module")
def secured(bin_dir: Path) -> Iterator[Secured]:
    base = make_directory("pgregent-rest-")
    (base / "tls").mkdir(mode=0o700)
    made = Secured(base, bin_dir, Authority(base / "tls"))
    try:
        made.make()
        for name in NAMES:
            made.start(name)
        until("the cluster is whole", made.whole)
        yield made
    finally:
        made.stop()


def test_who_may_do_what(secured: Secured) -> None:
    primary = secured.primary()
    url = f"https://{HOST}:{secured.rest[primary]}/primary"
    bare = ("curl", "-sS", "-m", "5", "--cacert", str(secured.authority.file))
    done = subprocess.run((*bare, url), capture_output=True, timeout=10, check=False)
    assert done.returncode != 0, "without a certificate nobody is answered"
    assert secured.curl(primary, "/config", "-X", "PATCH", "-d", '{"ttl": 40}') == (
        401,
        "no auth header received",
    )
    wrong = ("-X", "PATCH", "-u", "admin:guess", "-d", '{"ttl": 40}')
    assert secured.curl(primary, "/config", *wrong) == (401, "not authenticated")
    assert "ttl" not in secured.document(primary, "/config")


def test_the_command_line_asks_with_the_files_certificate(secured: Secured) -> None:
    done = run_cli("list", "-c", str(secured.base / "n2.yml"), "-f", "json")
    assert done.code == 0, done.err
    assert {m["Member"] for m in json.loads(done.out)} == set(NAMES)


def test_a_switchover_by_a_standby(secured: Secured) -> None:
    before = until("the cluster is whole", secured.whole)
    standby = next(name for name in NAMES if name != before)
    candidate = next(
        m["name"]
        for m in secured.document(before, "/cluster")["members"]
        if m["role"] == "quorum_standby"
    )
    assert secured.change(standby, "POST", "/switchover", {"leader": candidate})[0] == 412
    body = {"leader": before, "candidate": candidate}
    code, text = secured.change(standby, "POST", "/switchover", body)
    assert (code, text) == (200, f'Successfully switched over to "{candidate}"')
    assert until("the cluster is whole", secured.whole) == candidate
    until("it could take over", lambda: _role(secured, candidate, before) == "quorum_standby")
    code, text = secured.change(candidate, "POST", "/failover", {"candidate": before})
    assert (code, text) == (200, f'Successfully failed over to "{before}"')
    assert until("the cluster is whole", secured.whole) == before


def test_a_changed_configuration_is_used_by_all(secured: Secured) -> None:
    """What PostgreSQL takes at once; what waits for its start is told, with both values."""
    primary = until("the cluster is whole", secured.whole)
    old = secured.show(primary, "max_connections")
    parameters = {"work_mem": "7MB", "max_connections": int(old) + 20}
    reasons = {"max_connections": {"old_value": old, "new_value": str(int(old) + 20)}}
    change = {"maximum_lag_on_failover": 77, "postgresql": {"parameters": parameters}}
    code, text = secured.change(primary, "PATCH", "/config", change)
    assert (code, json.loads(text)["maximum_lag_on_failover"]) == (200, 77)
    for name in NAMES:
        until(f"{name} uses it", lambda n=name: secured.show(n, "work_mem") == "7MB")
        assert secured.show(name, "max_connections") == old
        shown = until(
            f"{name} says what waits",
            lambda n=name: secured.document(n, "/patroni").get("pending_restart_reason"),
        )
        assert shown == reasons
        assert 'patroni_pending_restart{scope="secured"' in secured.curl(name, "/metrics")[1]
        assert secured.document(name, "/config")["maximum_lag_on_failover"] == 77
    until("n1 tells of all", lambda: _pending(secured, "n1") == [reasons] * len(NAMES))
    back = {"postgresql": {"parameters": {"max_connections": None}}}
    assert secured.change(primary, "PATCH", "/config", back)[0] == 200
    for name in NAMES:
        until(
            f"nothing waits on {name}",
            lambda n=name: "pending_restart" not in secured.document(n, "/patroni"),
        )


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"nonsense": 1}, "unrecognized configuration parameter"),
        ({"work_mem": "lots"}, 'invalid value for parameter \\"work_mem\\"'),
        ({"fsync": "off"}, "postgresql.parameters.fsync: found off"),
    ],
)
def test_what_postgresql_would_not_start_with_is_refused(
    secured: Secured, parameters: Any, words: str
) -> None:
    before = secured.document("n1", "/config")
    change = {"postgresql": {"parameters": parameters}}
    code, text = secured.change("n1", "PATCH", "/config", change)
    assert code == 422
    assert words in text
    assert secured.document("n2", "/config") == before


def test_a_reload_takes_the_file(secured: Secured) -> None:
    """By /reload and by SIGHUP. What only an agent's start takes is said."""
    until("the cluster is whole", secured.whole)
    secured.write("n2", tags={"zone": "b", "nosync": True}, log={"level": "error"})
    assert secured.change("n2", "POST", "/reload", {}) == (202, "reload scheduled")
    until(
        "the tags are used",
        lambda: secured.document("n2", "/patroni").get("tags") == {"zone": "b", "nosync": True},
    )
    until("n1 hears of it", lambda: _tags(secured, "n1", "n2") == {"nosync": True})
    secured.write("n2", namespace="/elsewhere")
    os.kill(secured.agents["n2"].pid, signal.SIGHUP)
    until("the tags are gone", lambda: "tags" not in secured.document("n2", "/patroni"))
    until("it is said", lambda: "the configuration was read again" in secured.log("n2"))
    assert secured.log("n2").count("was read again") == 1, "the first time only errors were logged"
    assert "namespace was changed: restart the agent to use it" in secured.log("n2")
    (secured.base / "n2.yml").write_text("scope: [")
    assert secured.change("n2", "POST", "/reload", {})[0] == 202
    until("it is refused", lambda: "the configuration stays as it was" in secured.log("n2"))
    secured.write("n2")
    until("the cluster is whole", secured.whole)


def _pending(secured: Secured, at: str) -> list[Any]:
    members = secured.document(at, "/cluster")["members"]
    return [member.get("pending_restart_reason") for member in members]


def _tags(secured: Secured, at: str, name: str) -> Any:
    return _member(secured, at, name).get("tags")


def _role(secured: Secured, at: str, name: str) -> Any:
    return _member(secured, at, name).get("role")


def _member(secured: Secured, at: str, name: str) -> dict[str, Any]:
    """As `at` shows it."""
    members = secured.document(at, "/cluster").get("members", [])
    return next((m for m in members if m["name"] == name), {})


def test_a_restart_and_a_new_copy(secured: Secured) -> None:
    primary = until("the cluster is whole", secured.whole)
    standby = next(name for name in NAMES if name != primary)
    answer = secured.change(primary, "POST", "/restart", {"role": "primary"})
    assert answer == (200, "restarted successfully")
    assert secured.change(standby, "POST", "/restart", {"role": "primary"})[0] == 503
    assert secured.change(primary, "POST", "/reinitialize", {})[0] == 503
    answer = secured.change(standby, "POST", "/reinitialize", {"force": True})
    assert answer == (200, "reinitialize started")
    assert until("the cluster is whole", secured.whole) == primary
