"""`pgregent failover` that does not come about: what it says. The agents' side is played here."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgregent.cli.main import main

FILE = """\
scope: demo
name: n1
local: {{path: {place}/dcs.sqlite}}
restapi: {{listen: "127.0.0.1:{port}"}}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: {place}/data
  authentication:
    superuser: {{username: postgres, password: one}}
    replication: {{username: replicator, password: two}}
"""
ELECTING: dict[str, Any] = {
    "name": "n1",
    "primary": "n2",
    "serving": False,
    "term": 3,
    "register": {"seq": 7, "round": 4, "term": 3, "electing": True},
    "why": "an election is under way (round 4): n2 is gone",
    "succession": "nobody could succeed n2: that takes 2 of n1, n3 (eligible, running)",
    "members": [],
}


SERVING = {
    **ELECTING,
    "primary": "n1",
    "serving": True,
    "switchover": False,
    "register": {"seq": 7, "round": 4, "term": 3},
    "members": [{"name": "n1", "why": "it is the primary"}],
}


class Agent(ThreadingHTTPServer):
    """Says one after the other of what it is told to, the last again and again; counts requests."""

    statuses: list[Any]
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Agent

    def do_GET(self) -> None:
        told = self.server.statuses
        self._answer(200, told.pop(0) if len(told) > 1 else told[0])

    def do_POST(self) -> None:
        self.server.asked += 1
        self._answer(202, {"begun": True})

    def _answer(self, code: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def failover(agent: Agent, place: Path, *statuses: Any) -> Result:
    """To n3, while the agent says this."""
    agent.statuses = list(statuses)
    file = place / "agent.yml"
    file.write_text(FILE.format(place=place, port=agent.server_port))
    return CliRunner().invoke(main, ["failover", "-c", str(file), "--candidate", "n3", "--force"])


@pytest.mark.parametrize("status", [ELECTING, {**ELECTING, "primary": None, "register": None}])
def test_there_is_no_primary(agent: Agent, place: Path, status: Any):
    result = failover(agent, place, status)
    assert (result.exit_code, agent.asked) == (1, 0), result.output
    assert "there is none to make way; the members elect one: an election is" in result.stderr
    assert "nobody could succeed n2: that takes 2 of n1, n3" in result.stderr


def test_the_primary_gives_it_up(agent: Agent, place: Path):
    under_way = {**SERVING, "switchover": True}
    # Who the members are is asked first, and whether there is a primary.
    result = failover(agent, place, SERVING, SERVING, SERVING, under_way, SERVING)
    assert (result.exit_code, agent.asked) == (1, 1), result.output
    assert "n1 is still the primary after" in result.stderr
    assert result.stderr.rstrip().endswith("it is the primary")


def test_another_took_over(agent: Agent, place: Path):
    after = {**SERVING, "primary": "n2", "term": 4}
    result = failover(agent, place, SERVING, SERVING, after)
    assert (result.exit_code, agent.asked) == (1, 1), result.output
    assert "n2 took over, instead of n3" in result.stderr


def test_nobody_knows_where_the_primary_is(agent: Agent, place: Path):
    result = failover(agent, place, {**SERVING, "primary": "n2"})
    assert (result.exit_code, agent.asked) == (1, 0), result.output
    assert "agent n2: neither the DCS nor an agent that answers knows where" in result.stderr
