"""What the processes that `up` starts inherit."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from pgregent.cli.events import Event
from pgregent.cli.supervise import Spec, Supervised

SETTINGS = ("PATRONI_NAME", "PATRONI_POSTGRESQL_LISTEN", "PGREGENT_SCOPE", "PGREGENT_CONFIG_FILE")
TELL = "import json, os, sys; json.dump(dict(os.environ), sys.stdout); sys.exit(2)"


async def test_no_setting_of_the_environment_reaches_every_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them would be called PATRONI_NAME, and listen where the others do."""
    for name in SETTINGS:
        monkeypatch.setenv(name, "meant for one")
    monkeypatch.setenv("LANG_OF_THE_USER", "kept")
    log = tmp_path / "log"
    argv = (sys.executable, "-c", TELL)
    events: list[Event] = []
    process = Supervised(Spec("agent n1", argv, log, tmp_path / "lock"), events.append)
    await asyncio.wait_for(process.run(), 10)
    inherited = json.loads(log.read_text())
    assert inherited["LANG_OF_THE_USER"] == "kept"
    assert "PATH" in inherited
    assert not inherited.keys() & set(SETTINGS)
