"""Configuration files: what is read, and what is said about mistakes."""

from pathlib import Path

import pytest

from pgregent.config.load import check_config, load_config
from pgregent.config.types import HostPort, parse_host_port
from pgregent.core.errors import Refused

MINIMAL = """\
scope: demo
name: n1
restapi: {listen: "127.0.0.1:8008"}
local: {path: /srv/demo/dcs.sqlite}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /srv/demo/data
  authentication:
    superuser: {username: postgres, password: s3cret-one}
    replication: {username: replicator, password: s3cret-two}
"""

PATRONI = """\
scope: my_cluster
name: postgresql0
restapi:
 listen: pg-master:8008
 connect_address: pg-master:8008
local: {path: /srv/dcs.sqlite}
bootstrap:
 dcs:
   ttl: 30
   loop_wait: 10
   retry_timeout: 10
   maximum_lag_on_failover: 10485760
   master_start_timeout: 120
   synchronous_mode: true
   postgresql:
     use_pg_rewind: true
     use_slots: true
     parameters:
       wal_level: replica
       hot_standby: "on"
       max_wal_senders: 10
       archive_command: mkdir -p /tmp/wal_archive && cp %p /tmp/wal_archive/%f
 initdb:
 - encoding: UTF8
 - data-checksums
 pg_hba:
   - host replication replicator 0.0.0.0/0 md5
postgresql:
 listen: 0.0.0.0:5432
 connect_address: pg-master:5432
 data_dir: /var/lib/postgresql/data/postgresql0
 bin_dir: /usr/lib/postgresql/15/bin
 pgpass: /tmp/pgpass0
 authentication:
   replication: {username: replicator, password: rep-pass}
   superuser: {username: postgres, password: postgres}
 parameters:
   unix_socket_directories: '.'
   fsync: on
watchdog:
 mode: off
tags:
 nofailover: false
 noloadbalance: false
log:
"""


def mistakes(text: str) -> list[tuple[int, str, str]]:
    config, found = check_config(text)
    assert config is None or not found
    return [(m.line, m.key, m.text) for m in found]


def one_mistake(text: str) -> tuple[int, str, str]:
    found = mistakes(text)
    assert len(found) == 1, found
    return found[0]


def test_minimal_file_has_the_documented_defaults(tmp_path: Path) -> None:
    file = tmp_path / "agent.yml"
    file.write_text(MINIMAL)
    config = load_config(file)
    assert config.namespace == "/service"
    assert config.restapi.address == HostPort("127.0.0.1", 8008)
    assert (config.pgregent.suspect_after, config.pgregent.lease) == (1.0, 5.0)
    assert (config.pgregent.standby_grace, config.pgregent.hold_timeout) == (60.0, 15.0)
    assert config.bootstrap.dcs.ttl == 30
    assert config.postgresql.bin_dir is None


def test_patronis_file_is_read() -> None:
    config, found = check_config(PATRONI)
    assert config is not None, found
    assert config.bootstrap.dcs.synchronous_mode == "on"
    assert config.bootstrap.dcs.primary_start_timeout == 120
    assert "hot_standby" not in config.bootstrap.dcs.postgresql.parameters
    assert config.bootstrap.dcs.postgresql.parameters["max_wal_senders"] == "10"
    assert config.postgresql.parameters == {"unix_socket_directories": ".", "fsync": "on"}
    assert config.bootstrap.initdb == ("--encoding=UTF8", "--data-checksums")
    assert config.watchdog.mode == "off"
    assert config.postgresql.address == HostPort("pg-master", 5432)
    assert config.postgresql.authentication.superuser.password.get_secret_value() == "postgres"


def test_passwords_are_not_in_the_representation() -> None:
    config, _ = check_config(MINIMAL)
    assert "s3cret" not in repr(config)


def test_all_mistakes_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    text = MINIMAL.replace("  data_dir:", "  data_dri:").replace("name: n1", "name: 5")
    text += "pgregent:\n  suspect_after: fast\n"
    file = tmp_path / "agent.yml"
    file.write_text(text)
    with pytest.raises(Refused) as refused:
        load_config(file)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"4 mistakes in {file}"
    assert lines[1] == f"{file}:2: name: found 5, expected a name (put it in quotes)"
    assert lines[2].startswith(f"{file}:5: postgresql.data_dir: missing")
    assert lines[3] == f'{file}:7: postgresql.data_dri: unknown key; did you mean "data_dir"?'
    assert lines[4].startswith(
        f'{file}:12: pgregent.suspect_after: found "fast", expected a number'
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("5432", "port", 6, "postgresql.listen", "a port from 1 to 65535"),
        ("127.0.0.1:5432", "0.0.0.0:5432", 5, "postgresql.connect_address", "listen is 0.0.0.0"),
        ("/srv/demo/data", "data", 7, "postgresql.data_dir", "an absolute path"),
        ("scope: demo", "scope: a/b", 1, "scope", "letters, digits"),
        ("scope: demo", "scope: on", 1, "scope", "put it in quotes"),
        ("scope: demo", "scope: demo\nscope: x", 2, "scope", "given twice, first in line 1"),
        ("scope: demo", "scope: demo\ntags: 5", 2, "tags", "expected a mapping"),
        ("scope: demo", "scope: demo\ntags: {nosync: 2}", 2, "tags.nosync", "true or false"),
        ("scope: demo", "scope: demo\nwatchdog: {mode: required}", 2, "watchdog.mode", "off"),
        ("scope: demo", "scope: demo\nlog: {level: loud}", 2, "log.level", "debug, info"),
        ("scope: demo", "scope: demo\ncitus: {}", 2, "citus", "not supported yet"),
        ("scope: demo", "scope: demo\npgregent: {lease: .nan}", 2, "pgregent.lease", "from 1 to"),
        (
            "scope: demo",
            "scope: demo\nbootstrap: {dcs: {synchronous_node_count: .inf}}",
            2,
            "bootstrap.dcs.synchronous_node_count",
            "a whole number",
        ),
        (
            "scope: demo",
            "scope: demo\nbootstrap: {initdb: [pwfile: /x]}",
            2,
            "bootstrap.initdb",
            "pgregent sets itself",
        ),
        (
            "scope: demo",
            "scope: demo\npgregent: {suspect_after: 9}",
            2,
            "pgregent.lease",
            "more than suspect_after",
        ),
        ("local: {path: /srv/demo/dcs.sqlite}\n", "", 0, "zookeeper", "missing"),
        ("local:", "zookeeper: {hosts: [a]}\nlocal:", 5, "local", "beside zookeeper"),
        (
            "scope: demo",
            "scope: demo\ntags: {nofailoverr: true}",
            2,
            "tags.nofailoverr",
            "nofailover",
        ),
        ("scope: demo", "scope: demo\ntags: {region: [a]}", 2, "tags.region", "a text"),
        (
            "scope: demo",
            "scope: demo\nbootstrap: {dcs: {master_start_timeout: 1, primary_start_timeout: 2}}",
            2,
            "bootstrap.dcs.master_start_timeout",
            "an older name",
        ),
        (
            "scope: demo",
            "scope: demo\nbootstrap: {initdb: [[encoding]]}",
            2,
            "bootstrap.initdb",
            "a list of initdb's options",
        ),
        (
            "postgresql:\n",
            "postgresql:\n  parameters: {hot_standby: []}\n",
            6,
            "postgresql.parameters.hot_standby",
            "a text",
        ),
        ("scope: demo", "scope: demo\ntags: {1: a}", 2, "tags.1", "put it in quotes"),
        (
            "scope: demo",
            "scope: demo\ntags: {nostream: true}",
            2,
            "tags.nostream",
            "not supported",
        ),
        (
            "scope: demo",
            "scope: demo\ntags: {clonefrom: true}",
            2,
            "tags.clonefrom",
            "not supported",
        ),
        (
            "data_dir: /srv/demo/data",
            "data_dir: /srv/demo/data\n  config_dir: /srv/demo/data/conf",
            8,
            "postgresql.config_dir",
            "not below data_dir",
        ),
        (
            "data_dir: /srv/demo/data",
            "data_dir: /srv/demo/data\n  custom_conf: /srv/demo/data/postgresql.conf",
            8,
            "postgresql.custom_conf",
            "a file that pgregent does not write",
        ),
        (
            "data_dir: /srv/demo/data",
            f"data_dir: /srv/{'n' * 80}\n  use_unix_socket: true",
            8,
            "postgresql.use_unix_socket",
            "more than 107 bytes",
        ),
        (
            "postgresql:\n",
            "postgresql:\n  parameters: {wal_keep_segments: many}\n",
            6,
            "postgresql.parameters.wal_keep_segments",
            "a whole number",
        ),
        (
            "postgresql:\n",
            "postgresql:\n  parameters: {'work mem': 1}\n",
            6,
            "postgresql.parameters.work mem",
            "a parameter's name",
        ),
    ],
)
def test_each_mistake_says_where_and_what(
    old: str, new: str, line: int, key: str, words: str
) -> None:
    found = one_mistake(MINIMAL.replace(old, new, 1))
    assert found[:2] == (line, key)
    assert words in found[2]


@pytest.mark.parametrize("name", ["consul", "kubernetes", "raft", "exhibitor"])
def test_another_dcs_is_one_mistake_by_name(name: str) -> None:
    text = MINIMAL.replace("local: {path: /srv/demo/dcs.sqlite}", f"{name}: {{hosts: [a:2379]}}")
    assert one_mistake(text)[1] == name
    assert "not supported yet" in one_mistake(text)[2]


def test_tags_of_ones_own_are_kept_beside_the_known_ones() -> None:
    tags = "tags: {region: eu, rack: 3, nosync: true, nofailover: false, empty: }\n"
    config, found = check_config(MINIMAL + tags)
    assert config is not None, found
    assert config.tags.custom == {"region": "eu", "rack": 3}
    assert config.tags.all == {"nosync": True, "region": "eu", "rack": 3}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "a: [",
        "a: \t- b",
        "just text",
        "a: &x [*x]",
        "2001-99-99: x",
        "? [a]\n: b",
    ],
)
def test_what_is_not_a_configuration_is_refused(text: str) -> None:
    assert mistakes(text)


@pytest.mark.parametrize("value", ["12345", "[s3cret-one]", "{s3cret-one: s3cret-one}"])
def test_mistakes_never_show_passwords(value: str) -> None:
    text = MINIMAL.replace("password: s3cret-one", f"password: {value}")
    for found in mistakes(text):
        assert "s3cret" not in found[2]
        assert "12345" not in found[2]


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        load_config(tmp_path / "absent.yml")
    with pytest.raises(Refused, match=r"no \*\.yml and no \*\.yaml in it"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="not UTF-8"):
        load_config(binary)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5432", "127.0.0.1", 5432),
        ("[::1]:8008", "::1", 8008),
        ("*:5432", "*", 5432),
        ("127.0.0.1,::1:5432", "127.0.0.1,::1", 5432),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_host_port(text) == HostPort(host, port)
    assert str(parse_host_port(text)) == text


@pytest.mark.parametrize("text", ["5432", ":5432", "a:", "a:0", "a:65536", "::1:5432x", "a b:1", 5])
def test_what_is_no_address(text: object) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_host_port(text)
