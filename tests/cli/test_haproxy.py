"""`pgregent haproxy`: from the agents' files to haproxy.cfg, and what is refused."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgregent.cli.haproxy import command
from pgregent.core.errors import Refused

FILE = """\
scope: {scope}
name: {name}
local: {{path: /tmp/dcs.sqlite}}
restapi: {{listen: "0.0.0.0:8008", connect_address: "{name}:8008"}}
postgresql:
  listen: 0.0.0.0:5432
  connect_address: {name}:5432
  data_dir: /data/{name}
  authentication:
    superuser: {{username: postgres, password: super-secret}}
    replication: {{username: replicator, password: {password}}}
"""


def write(place: Path, name: str, scope: str = "demo", password: str = "rep-secret") -> str:
    path = place / f"{name}-{scope}-{password}.yml"
    path.write_text(FILE.format(name=name, scope=scope, password=password))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_config_names_every_member_and_no_secret(place: Path):
    files = [write(place, "pg-master"), write(place, "pg-slave")]
    result = run("config", *files, "--stats-port", "7000", "--stats-port", "6000")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert {"bind *:5432", "bind *:5433", "bind *:7000", "bind *:6000"} <= set(lines)
    for name in ("pg-master", "pg-slave"):
        assert any(line.startswith(f"server {name} {name}:5432 ") for line in lines)
        assert any(line.startswith(f"server {name} {name}:8008 ") for line in lines)
    assert "stats socket /run/haproxy/admin.sock mode 660 level admin" in lines
    assert "retries 188" in lines
    assert "secret" not in result.output


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")
def test_config_writes_a_file_that_haproxy_accepts(place: Path):
    out, socket = place / "haproxy.cfg", place / "admin.sock"
    result = run("config", write(place, "a"), "--socket", str(socket), "-o", str(out))
    assert (result.exit_code, result.output) == (0, "")
    checked = ["haproxy", "-c", "-f", str(out)]
    assert subprocess.run(checked, capture_output=True, timeout=30, check=False).returncode == 0


def test_files_that_do_not_fit_together(place: Path):
    a = write(place, "a")
    for other, why in (
        (write(place, "b", scope="other"), "scope: found 'other', expected 'demo'"),
        (a, "name: found 'a', which"),
        (write(place, "b", password="another"), r"replication\.password: differs from that in"),
    ):
        refused = run("config", a, other).exception
        assert isinstance(refused, Refused)
        with pytest.raises(Refused, match=why):
            raise refused
        assert "another" not in str(refused).replace(other, "")


def with_tls(file: str, section: str) -> str:
    """The file with this in its section `restapi`."""
    path = Path(file)
    path.write_text(path.read_text().replace("restapi: {", f"restapi: {{{section}, "))
    return file


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        (
            "certfile: /a.pem",
            "allowlist: []",
            "b-demo-rep-secret.yml: restapi.certfile: found none, but /a.pem in ",
        ),
        (
            "certfile: /a.pem, keyfile_password: open, cafile: /ca.pem",
            "certfile: /b.pem, cafile: /ca.pem, verify_client: required",
            "a-demo-rep-secret.yml: restapi.keyfile_password: HAProxy would ask for it",
        ),
        (
            "certfile: /a.pem, keyfile: /a.key, cafile: /ca.pem, verify_client: required",
            "certfile: /b.pem",
            "a-demo-rep-secret.yml: restapi.keyfile: found /a.key, expected /a.pem.key",
        ),
        (
            "certfile: /a.pem, cafile: /c a.pem",
            "certfile: /b.pem",
            "restapi.cafile: found /c a.pem",
        ),
    ],
)
def test_tls_that_haproxy_cannot_use(place: Path, one: str, two: str, why: str):
    files = [with_tls(write(place, "a"), one), with_tls(write(place, "b"), two)]
    refused = run("config", *files).exception
    assert isinstance(refused, Refused)
    assert why in str(refused)


def test_an_output_that_cannot_be_written(place: Path):
    refused = run("config", write(place, "a"), "-o", str(place / "no" / "h.cfg")).exception
    assert isinstance(refused, Refused)
    assert "--output: cannot write" in str(refused)


def test_watch_without_anybody_there_says_so_and_ends_on_sigterm(place: Path):
    # Nobody listens on port 1.
    file = Path(write(place, "a"))
    file.write_text(file.read_text().replace('"a:8008"', '"127.0.0.1:1"'))
    code = "from pgregent.cli.haproxy import command; command()"
    socket = str(place / "admin.sock")
    log = place / "log"
    with log.open("wb") as out:
        watch = subprocess.Popen(
            [sys.executable, "-c", code, "watch", str(file), "--socket", socket], stderr=out
        )
    try:
        deadline = time.monotonic() + 20
        while "a at 127.0.0.1:1: cannot connect" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(10) == 0
    finally:
        watch.kill()
        watch.wait(10)
    assert "secret" not in log.read_text()
