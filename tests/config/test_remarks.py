"""Keys that are accepted and change nothing here: a remark says so, and why."""

from typing import Any

import pytest
import yaml

from pgregent.config.load import check_config, parse_dynamic
from tests.config.test_load import MINIMAL

NO_EFFECT: list[tuple[str, Any, Any]] = [
    ("thread_pool_size", 8, 4),
    ("thread_stack_size", "512kB", "1 kB"),
    ("restapi.request_queue_size", 0, 4097),
    ("restapi.thread_pool_size", 5, "many"),
    ("postgresql.use_unix_socket_repl", True, "often"),
    ("watchdog.device", "/dev/watchdog", [1]),
    ("watchdog.safety_margin", 5, -2),
    ("tags.failover_priority", 2, -1),
    ("tags.sync_priority", 10, "low"),
    ("tags.replicatefrom", "n2", [1]),
    ("log.deduplicate_heartbeat_logs", True, "often"),
    ("bootstrap.dcs.maximum_lag_on_syncnode", -1, -2),
    ("bootstrap.dcs.max_timelines_history", 0, "all"),
    ("bootstrap.dcs.primary_race_backoff", 2, -1),
    ("bootstrap.dcs.check_timeline", True, "maybe"),
    ("bootstrap.dcs.failsafe_mode", True, "maybe"),
]


def with_key(key: str, value: Any) -> str:
    """A whole configuration with it."""
    content = yaml.safe_load(MINIMAL)
    section, parts = content, key.split(".")
    for part in parts[:-1]:
        section = section.setdefault(part, {})
    section[parts[-1]] = value
    return yaml.safe_dump(content, sort_keys=False)


@pytest.mark.parametrize(("key", "value", "wrong"), NO_EFFECT)
def test_what_has_no_effect_is_checked_and_said(key: str, value: Any, wrong: Any) -> None:
    config, said = check_config(with_key(key, value))
    assert config is not None, said
    (remark,) = said
    assert (remark.key, remark.line > 0) == (key, True)
    assert remark.text.startswith("no effect: ")
    config, said = check_config(with_key(key, wrong))
    assert config is None
    assert [found.key for found in said] == [key]


def test_it_is_said_of_what_is_in_the_dcs_too() -> None:
    loaded = parse_dynamic('{"failsafe_mode": true, "check_timeline": true}', "the DCS")
    assert [warning.split(": ")[:2] for warning in loaded.warnings] == [
        ["the DCS", "check_timeline"],
        ["the DCS", "failsafe_mode"],
    ]


def test_nothing_is_said_of_what_is_not_given() -> None:
    assert check_config(MINIMAL)[1] == ()
