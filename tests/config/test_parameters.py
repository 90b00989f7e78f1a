"""PostgreSQL's parameters: what is translated, dropped, warned about, and who wins."""

import pytest

from pgregent.adapters.postgres.layout import FIXED_PARAMETERS
from pgregent.adapters.postgres.render import OWNED_PARAMETERS
from pgregent.config.load import check_config
from pgregent.config.parameters import CLUSTER_WIDE, OWN, merge, parameter_warnings
from tests.config.test_load import MINIMAL


def local(line: str) -> tuple[dict[str, str], list[str]]:
    config, found = check_config(MINIMAL + f"  parameters: {{{line}}}\n")
    assert config is not None, found
    return dict(config.postgresql.parameters), [f"{w.key}: {w.text}" for w in found]


def test_wal_keep_segments_becomes_wal_keep_size() -> None:
    parameters, warnings = local("wal_keep_segments: 8")
    assert parameters == {"wal_keep_size": "128MB"}
    assert len(warnings) == 1
    assert "taken as wal_keep_size: 128MB" in warnings[0]


def test_wal_keep_size_wins_over_segments() -> None:
    parameters, warnings = local("wal_keep_segments: 8, wal_keep_size: 1GB")
    assert parameters == {"wal_keep_size": "1GB"}
    assert len(warnings) == 1
    assert "wal_keep_size is given too, and wins" in warnings[0]


def test_names_have_no_case() -> None:
    assert local("Work_Mem: 8MB")[0] == {"work_mem": "8MB"}
    config, found = check_config(MINIMAL + "  parameters: {Work_Mem: 8MB, work_mem: 1MB}\n")
    assert config is None
    assert "once" in found[0].text


def test_pgregents_own_are_dropped_and_said_when_they_differ() -> None:
    parameters, warnings = local("hot_standby: on, wal_log_hints: off, port: 5433")
    assert parameters == {}
    assert ["wal_log_hints" in w or "port" in w for w in warnings] == [True, True]
    assert "sets it itself to on" in warnings[0]


def test_what_adapters_rely_on_is_dropped_here() -> None:
    settable = {"unix_socket_directories", "full_page_writes", "fsync", "synchronous_commit"}
    assert set(OWNED_PARAMETERS) | set(FIXED_PARAMETERS) - settable <= OWN | settable


def test_a_members_own_win_except_the_clusters() -> None:
    dynamic = {"work_mem": "4MB", "max_connections": "100", "shared_buffers": "1GB"}
    merged = merge(dynamic, {"work_mem": "8MB", "max_connections": "500", "wal_level": "logical"})
    assert merged == {"work_mem": "8MB", "max_connections": "100", "shared_buffers": "1GB"}


@pytest.mark.parametrize("name", sorted(CLUSTER_WIDE - OWN))
def test_the_clusters_parameters_are_ignored_locally_with_a_warning(name: str) -> None:
    warnings = local(f"{name}: 7")[1]
    assert len(warnings) == 1
    assert f"postgresql.parameters.{name}: ignored" in warnings[0]
    assert parameter_warnings({name: 7}, local=False) == []


@pytest.mark.parametrize(
    ("command", "unsafe"),
    [
        ("test ! -f /a/%f && cp %p /a/%f", True),
        ("[ ! -f /a/%f ] && cp %p /a/%f", True),
        ("mkdir -p /a && test ! -e /a/%f && /bin/cp %p /a/%f", True),
        ("pgregent wal-archive push --archive /a %p", False),
        ("cp %p /a/%f", False),
    ],
)
def test_archive_commands(command: str, unsafe: bool) -> None:
    assert bool(parameter_warnings({"archive_command": command}, local=True)) == unsafe


def test_md5_is_warned_about_where_it_stands() -> None:
    lines = ("host all all 10.0.0.0/8 md5", "host all md5 10.0.0.0/8 reject # md5")
    hba = "  pg_hba:\n" + "".join(f"  - '{line}'\n" for line in lines)
    config, found = check_config(MINIMAL + hba)
    assert config is not None
    assert config.postgresql.pg_hba[0].endswith("md5")
    assert "password_encryption" not in config.server_parameters(config.bootstrap.dcs)
    assert [(w.line, w.key) for w in found] == [(12, "postgresql.pg_hba.0")]


def test_the_first_pg_hba_that_is_given_counts() -> None:
    sections = ("  pg_hba: [a]\n", "    postgresql: {pg_hba: [b]}\n", "  pg_hba: [c]\n")
    for given in range(4):
        own, dcs, bootstrap = (text if i >= given else "" for i, text in enumerate(sections))
        text = MINIMAL + own + "bootstrap:\n" + ("  dcs:\n" + dcs if dcs else "") + bootstrap
        config, found = check_config(text)
        assert config is not None, found
        expected = (("a",), ("b",), ("c",), ())[given]
        assert config.server_hba(config.bootstrap.dcs) == expected
