"""Commands on the real API of one agent: the configuration, reloads, and what is only shown."""

import asyncio
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from pgregent.adapters.dcs.memory import MemoryDcs
from pgregent.adapters.peers.auth import derive_key
from pgregent.agent.dynamic import DynamicConfig
from pgregent.api import status
from pgregent.api.signed_config import SignedConfig
from pgregent.cli.main import main
from pgregent.config.load import parse_dynamic
from pgregent.core.errors import Refused, Unavailable
from tests.api.members import LOOPBACK, node, primary, served

STORED = {"synchronous_mode": True, "postgresql": {"parameters": {"work_mem": "8MB"}}}
FILE = """\
scope: demo
name: n1
local: {{path: {place}/dcs.sqlite}}
restapi: {{listen: "{host}:{port}"}}
postgresql:
  listen: {host}:5432
  data_dir: {place}/data
  authentication:
    superuser: {{username: postgres, password: one}}
    replication: {{username: replicator, password: two}}
"""


@dataclass
class Agent:
    """n1, which serves. `reloads`: how the next ones end."""

    place: Path
    reloads: list[Exception | Sequence[str]] = field(
        default_factory=list[Exception | Sequence[str]]
    )
    _ready: threading.Event = field(default_factory=threading.Event)
    _loop: Any = None
    _end: Any = None

    @property
    def file(self) -> str:
        return str(self.place / "agent.yml")

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        bootstrap = parse_dynamic(json.dumps(STORED), "the file").dcs
        stored = DynamicConfig(MemoryDcs(), "/service/demo/config", self.place, bootstrap)
        await stored.load(lambda _: None)
        subject = node(primary(), tags={"zone": "b"})
        signed = SignedConfig(derive_key("two", "demo"), stored, self._reload)
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with served(subject, [*status.routes(subject, dict), *signed.routes()]) as port:
            text = FILE.format(place=self.place, host=LOOPBACK, port=port)
            Path(self.file).write_text(text)
            self._ready.set()
            await self._end.wait()

    async def _reload(self) -> Sequence[str]:
        end = self.reloads.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)

    def cli(self, command: str, *arguments: str, **more: Any) -> Result:
        """Run it on this agent's file."""
        return CliRunner().invoke(main, [command, "-c", self.file, *arguments], **more)

    def edit(self, editor: str, answer: str = "y") -> Result:
        """`edit-config` with this $EDITOR."""
        env = {"EDITOR": editor, "VISUAL": editor}
        return self.cli("edit-config", env=env, input=answer)

    def stored(self) -> Any:
        """What `show-config` says."""
        return yaml.safe_load(self.cli("show-config").stdout)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    thread = threading.Thread(target=made.run)
    thread.start()
    assert made._ready.wait(30)
    yield made
    made.stop()
    thread.join(30)


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr


def test_edit_config_in_an_editor(agent: Agent) -> None:
    add = "sed -i '$ a ttl: 22'"
    result = agent.edit(add, answer="n")
    assert (result.exit_code, "+ttl: 22" in result.stdout) == (1, True)
    assert agent.edit("true").stdout == "Not changed\n"
    assert_refused(agent.edit("sed -i '1 i ['"), "the edited text:", "not valid YAML")
    assert_refused(agent.edit("false"), "$VISUAL, $EDITOR: false: ")
    assert agent.stored() == STORED
    result = agent.edit(add)
    assert (result.exit_code, "Configuration changed" in result.stdout) == (0, True)
    assert agent.stored() == STORED | {"ttl": 22}


def test_edit_config_does_not_overwrite_what_somebody_else_changed(agent: Agent) -> None:
    command = (sys.executable, "-m", "pgregent.cli.main", "edit-config", "-c", agent.file)
    other = shlex.join((*command, "-s", "loop_wait=7", "--force"))
    editor = agent.place / "editor"
    editor.write_text(f"#!/bin/sh -e\n{other} >/dev/null\necho 'ttl: 23' >> $1\n")
    editor.chmod(0o755)
    assert_refused(agent.edit(str(editor)), "n1: somebody else has changed it meanwhile")
    assert agent.stored() == STORED | {"loop_wait": 7}


def test_edit_config_from_standard_input(agent: Agent) -> None:
    asked = ("edit-config", "demo", "--apply", "-", "-q")
    change = "{ttl: 20, postgresql: {parameters: null}}"
    assert_refused(agent.cli(*asked, input=change), "nothing was changed", "--force")
    assert agent.stored() == STORED
    assert agent.cli(*asked, "--force", input=change).stdout == "Configuration changed\n"
    assert agent.stored() == {"synchronous_mode": True, "postgresql": {}, "ttl": 20}
    agent.cli("edit-config", "--replace", "-", "--force", input=yaml.safe_dump(STORED))
    assert agent.stored() == STORED


def test_what_is_refused(agent: Agent) -> None:
    setting = agent.cli("edit-config", "-s", "tttl=30", "--force")
    assert_refused(setting, "n1: the new configuration: tttl: unknown key", "ttl")
    for command in ("edit-config", "show-config", "list", "failover"):
        refused = agent.cli(command, "another")
        assert_refused(refused, f"no cluster 'another' here: {agent.file} is of 'demo'")
    assert_refused(agent.cli("failover", "--force"), "--candidate: missing")
    for command in ("failover", "switchover"):
        refused = agent.cli(command, "--force", "--candidate", "n1")
        assert_refused(refused, "--candidate n1: it is the primary already")
    Path(agent.file).write_text(Path(agent.file).read_text().replace("two", "another"))
    assert_refused(agent.cli("show-config"), "is this the file of another cluster")


def test_reload_says_what_became_of_it(agent: Agent) -> None:
    agent.reloads = [["namespace was changed"], Refused("a.yml:1: x"), Unavailable("postgres", "?")]
    reload = ("reload", "demo", "n1", "--force")
    result = agent.cli(*reload)
    said = ["n1: its file was read again", "  namespace was changed"]
    assert (result.exit_code, result.stdout.splitlines()) == (0, said)
    result = agent.cli(*reload)
    assert (result.exit_code, result.stderr) == (1, "failed: n1: a.yml:1: x\n")
    result = agent.cli(*reload)
    assert (result.exit_code, "postgres: ?" in result.stderr) == (1, True)
    assert_refused(agent.cli("reload", "n9", "--force"), "no member 'n9'; demo has n1, n2, n3")
    assert_refused(agent.cli("reload", "n1", "-r", "replica"), "--role replica: none of n1")
    result = agent.cli("reload", "-r", "replica", "--force")
    assert result.exit_code == 1
    assert all(f"{name}: failed: agent {name}: " in result.stderr for name in ("n2", "n3"))


def test_what_is_only_shown(agent: Agent) -> None:
    tree = agent.cli("topology").stdout.splitlines()
    members = [line.split("|")[1].strip() for line in tree if "127.0.0.1:5432" in line]
    assert members == ["n1", "+ n2", "+ n3"]
    for option in (("-m", "n2"), ("-r", "replica"), ("-r", "leader")):
        assert agent.cli("dsn", *option).stdout == f"host={LOOPBACK} port=5432\n"
    assert_refused(agent.cli("dsn", "-m", "n9"), "--member n9: no such member; known: n1, n2, n3")
    assert_refused(agent.cli("dsn", "-r", "standby-leader"), "primary: n1")
    assert_refused(agent.cli("dsn", "-m", "n1", "--read-only"), "--role and --member: give one")
    rows = json.loads(agent.cli("history", "-f", "json").stdout)
    assert [row.pop("Timestamp")[:2] for row in rows] == ["20", "20"]
    assert rows == [
        {"TL": 0, "LSN": 0, "Reason": "n2 created the cluster", "New Leader": "n2", "Term": 1},
        {"TL": 1, "LSN": 0x3000060, "Reason": "n2 was killed", "New Leader": "n1", "Term": 3},
    ]
    shown = agent.cli("list", "-e", "-t").stdout
    assert shown.startswith("20")
    assert all(word in shown for word in ("Pending restart reason", "{'zone': 'b'}"))
    (tags, *_) = [row.get("Tags") for row in yaml.safe_load(agent.cli("list", "-f", "yml").stdout)]
    assert tags == {"zone": "b"}


def test_list_is_shown_again_until_ctrl_c(agent: Agent) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "pgregent.cli.main", "list", "-c", agent.file, "-w", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout
        titles = 0
        while titles < 2:
            line = watching.stdout.readline()
            assert line, "it ended"
            titles += "Cluster: demo" in line
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=30)
    finally:
        watching.kill()
        watching.wait(10)
    assert (watching.returncode, errors) == (1, "\nAborted!\n")
