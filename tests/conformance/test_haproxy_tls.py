"""HAProxy and its watch beside agents whose port uses TLS, as the commands set them up."""

import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from pgregent.adapters.entry.haproxy import Entry
from pgregent.api.tls import server_context
from pgregent.cli.haproxy import command
from pgregent.config.rest import RestSecurity
from pgregent.core.errors import Refused
from tests.api.certificates import Authority
from tests.conformance.test_haproxy import (
    LOOPBACK,
    SCOPE,
    SECRET,
    Cluster,
    Member,
    ask,
    eventually,
    folder,  # noqa: F401 (a fixture)
    free_ports,
    spawn,
)

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")

COMMAND = "from pgregent.cli.haproxy import command; command()"


@dataclass
class TlsCluster(Cluster):
    """Members with this section `restapi` in their files."""

    restapi: dict[str, str] = field(default_factory=dict[str, str])
    api_host: str = LOOPBACK
    ctl: dict[str, Any] = field(default_factory=dict[str, Any])

    def files(self) -> list[str]:
        found: list[str] = []
        for member in (self.one, self.two):
            role = {"username": "x", "password": "super"}
            content = {
                "scope": SCOPE,
                "name": member.name,
                "local": {"path": "/tmp/dcs.sqlite"},
                "restapi": {"listen": f"{self.api_host}:{member.api_port}", **self.restapi},
                "ctl": self.ctl,
                "postgresql": {
                    "listen": f"{LOOPBACK}:{member.port}",
                    "data_dir": f"/data/{member.name}",
                    "authentication": {
                        "superuser": role,
                        "replication": {"username": "replicator", "password": SECRET},
                    },
                },
            }
            path = self.folder / f"{member.name}.yml"
            path.write_text(yaml.safe_dump(content))
            found.append(str(path))
        return found

    def write_config(self) -> Result:
        """`pgregent haproxy config`, whose output a real HAProxy takes."""
        ports = ["--port", self.entry.port, "--ro-port", self.entry.ro_port]
        ports += ["--stats-port", self.entry.stats_ports[0], "--check-port", self.entry.check_port]
        options = [*map(str, ports), "--socket", self.entry.socket]
        return CliRunner().invoke(command, ["config", *self.files(), *options])

    def start_haproxy(self, text: str | None = None) -> None:
        if text is None:
            result = self.write_config()
            assert result.exit_code == 0, result.output + repr(result.exception)
            text = result.stdout
        super().start_haproxy(text)

    def start_watch(self) -> None:
        options = ["watch", *self.files(), "--socket", self.entry.socket]
        self.watch = spawn([sys.executable, "-c", COMMAND, *options], self.folder / "log")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Iterator[Path]:
    """A certificate of 127.0.0.1 and localhost, with its key in the same file."""
    crt, key = authority.issue("agent")
    crt.write_text(crt.read_text() + key.read_text())
    yield crt


@asynccontextmanager
async def running(place: Path, restapi: dict[str, str], **more: Any) -> AsyncIterator[TlsCluster]:
    """Two members with this section."""
    ports = free_ports(9)
    one, two = (Member(f"n{i + 1}", ports[i], ports[2 + i], time.time()) for i in range(2))
    one.tls = two.tls = server_context(RestSecurity.model_validate(restapi))
    entry = Entry(ports[4], ports[5], (ports[6],), ports[8], str(place / "admin.sock"))
    made = TlsCluster(one, two, entry, place, restapi=restapi, **more)
    try:
        await one.start()
        await two.start()
        yield made
    finally:
        made.stop()
        await one.stop()
        await two.stop()


@pytest.mark.parametrize(
    ("verify", "api_host"), [("none", LOOPBACK), ("required", LOOPBACK), ("required", "localhost")]
)
async def test_checks_and_watch(
    folder: Path,  # noqa: F811
    authority: Authority,
    certificate: Path,
    verify: str,
    api_host: str,
) -> None:
    restapi = {
        "certfile": str(certificate),
        "cafile": str(authority.file),
        "verify_client": verify,
    }
    async with running(folder, restapi, api_host=api_host) as cluster:
        await cluster.ready(watched=False)
        assert await ask(cluster.entry.port) == "n1"
        cluster.one.answers["primary"], cluster.two.answers["primary"] = 503, 200
        await cluster.settled("n2")
        # By the checks it is member two; the agents' word is another.
        cluster.start_watch()
        await cluster.settled("n1", watched=True)
        assert await ask(cluster.entry.port) == "n1"


async def not_believed(cluster: TlsCluster) -> None:
    """HAProxy gives up the handshake with the agent of member one, which it holds for down."""
    down = "Server agent_n1/n1 is DOWN, reason: Layer6"
    await eventually(lambda: down in cluster.log(), "HAProxy does not believe the agent")


async def test_an_agent_of_another_authority_is_not_believed(
    folder: Path,  # noqa: F811
    certificate: Path,
) -> None:
    place = folder / "other"
    place.mkdir()
    restapi = {"certfile": str(certificate), "cafile": str(Authority(place).file)}
    async with running(folder, restapi) as cluster:
        cluster.begin()
        cluster.start_haproxy()
        await not_believed(cluster)
        assert cluster.haproxy is not None
        cluster.haproxy.kill()
        cluster.haproxy.wait(10)
        cluster.ctl = {"insecure": True}
        await cluster.ready(watched=False)


async def test_a_certificate_is_for_the_name_that_is_asked(
    folder: Path,  # noqa: F811
    authority: Authority,
) -> None:
    crt, key = authority.issue("elsewhere", "DNS:db.example")
    crt.write_text(crt.read_text() + key.read_text())
    restapi = {"certfile": str(crt), "cafile": str(authority.file)}
    async with running(folder, restapi, api_host="localhost") as cluster:
        cluster.begin()
        cluster.start_haproxy()
        await not_believed(cluster)


@pytest.mark.parametrize("name", ["agent.pem", "agent.crt"])
async def test_a_key_beside_its_certificate(
    folder: Path,  # noqa: F811
    authority: Authority,
    certificate: Path,
    name: str,
) -> None:
    crt = folder / name
    crt.write_text(certificate.read_text().partition("-----BEGIN PRIVATE")[0])
    key = folder / ("agent.key" if crt.suffix == ".crt" else f"{name}.key")
    shutil.copy(certificate.with_suffix(".key"), key)
    restapi = {
        "certfile": str(crt),
        "keyfile": str(key),
        "cafile": str(authority.file),
        "verify_client": "required",
    }
    async with running(folder, restapi) as cluster:
        await cluster.ready(watched=False)
        key.rename(folder / "moved.key")
        cluster.restapi["keyfile"] = str(folder / "moved.key")
        refused = cluster.write_config().exception
        assert isinstance(refused, Refused)
        assert f"restapi.keyfile: found {folder}/moved.key, expected {key}" in str(refused)
