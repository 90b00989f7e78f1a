"""Hands off the cluster, for a while: its dynamic configuration says so."""

import time

import click

from pgregent.cli.show_config import read_stored
from pgregent.cli.target import Target, ask
from pgregent.core.errors import Refused, Unavailable

_WAIT_S = 15.0
_POLL_S = 0.1


def set_paused(target: Target, paused: bool, wait: bool) -> None:
    """Store it; `wait`: until all members that answer know. Raises Refused, Unavailable."""
    from pgregent.api.signed import EDIT_CONFIG
    from pgregent.cli.operate import ask_agent

    stored = read_stored(target)
    if bool(stored.config.get("pause")) == paused:
        raise Refused(f"{target.scope} is {'already' if paused else 'not'} paused")
    config = {k: v for k, v in stored.config.items() if k != "pause"}
    if paused:
        config["pause"] = True
    ask_agent(target, stored.agent, EDIT_CONFIG, {"config": config, "version": stored.version})
    if wait:
        _wait(target, paused)
    click.echo(f"Success: cluster management is {'paused' if paused else 'resumed'}")


def _wait(target: Target, paused: bool) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        by_node = ask(target).by_node
        others = [n for n, status in by_node.items() if status and status["paused"] != paused]
        if not others:
            return
        if time.monotonic() > until:
            why = f"{', '.join(sorted(others))} did not notice within {_WAIT_S:g} s"
            raise Unavailable("members", f"it is stored, but {why}")
        time.sleep(_POLL_S)
