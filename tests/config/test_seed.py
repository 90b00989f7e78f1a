"""The seed's files, byte for byte."""

import hashlib
from pathlib import Path

import pytest

from pgregent.config.load import load
from pgregent.config.types import HostPort

SEED = Path(__file__).parents[1] / "seed"
SHA256 = {
    "postgres0.yml": "218c4b6e58cdf6d06ee28b4901cd80c4f964eca5439a780a925e93a5f7d2cceb",
    "postgres1.yml": "0005826310b40fd4ec30e89dcbdde2091df1ca46f255166a22afb531ab058cbf",
}
MEMBERS = {
    "postgres0.yml": ("postgresql0", "pg-master"),
    "postgres1.yml": ("postgresql1", "pg-slave"),
}


HAPROXY = "1df4f107d9b46fb3e3ff418a0cfbcb42d0f9cfd5163a14bc62497e28aadd8e63"


def test_haproxy_cfg_is_the_seeds_own() -> None:
    assert hashlib.sha256((SEED / "haproxy.cfg").read_bytes()).hexdigest() == HAPROXY


@pytest.mark.parametrize("name", SHA256)
def test_the_files_are_the_seeds_own(name: str) -> None:
    assert hashlib.sha256((SEED / name).read_bytes()).hexdigest() == SHA256[name]


@pytest.mark.parametrize("name", SHA256)
def test_they_are_read_as_they_are(name: str) -> None:
    config = load(SEED / name, {}).config
    member, host = MEMBERS[name]
    assert (config.scope, config.name) == ("my_cluster", member)
    assert config.restapi.address == HostPort(host, 8008)
    assert config.postgresql.address == HostPort(host, 5432)
    assert config.zookeeper is not None
    assert config.zookeeper.hosts == (HostPort("zoo", 2181),)
    assert config.local is None
    assert config.watchdog.mode == "off"
    assert str(config.postgresql.pgpass) == "/tmp/pgpass0"
    assert config.tags.all == {}
    assert config.server_hba(config.bootstrap.dcs) == (
        "host replication replicator 0.0.0.0/0 md5",
        "host all all 0.0.0.0/0 md5",
    )


def test_their_dynamic_configuration() -> None:
    dcs = load(SEED / "postgres0.yml", {}).config.bootstrap.dcs
    assert (dcs.ttl, dcs.loop_wait, dcs.retry_timeout) == (30, 10, 10)
    assert dcs.maximum_lag_on_failover == 10485760
    assert dcs.primary_start_timeout == 300
    assert dcs.synchronous_mode == "on"
    assert dcs.postgresql.use_slots
    assert dcs.postgresql.use_pg_rewind


def test_their_servers_parameters() -> None:
    config = load(SEED / "postgres0.yml", {}).config
    parameters = config.server_parameters(config.bootstrap.dcs)
    assert parameters["wal_keep_size"] == "128MB"
    assert "wal_keep_segments" not in parameters
    assert parameters["archive_mode"] == "always"
    assert parameters["archive_timeout"] == "1800s"
    assert parameters["archive_command"].startswith("mkdir -p /tmp/wal_archive && test ! -f ")
    assert parameters["unix_socket_directories"] == "."
    assert parameters["max_wal_senders"] == "10"


@pytest.mark.parametrize("name", SHA256)
def test_their_warnings(name: str) -> None:
    warnings = load(SEED / name, {}).warnings
    where = f"{SEED / name}:"
    keys = [w.removeprefix(where).split(": ", 2)[:2] for w in warnings]
    assert keys == [
        ["25", "bootstrap.dcs.postgresql.parameters.wal_keep_segments"],
        ["31", "bootstrap.dcs.postgresql.parameters.archive_command"],
        ["33", "bootstrap.pg_hba.0"],
        ["34", "bootstrap.pg_hba.1"],
        ["50", "postgresql.parameters.unix_socket_directories"],
    ]
    assert "wal_keep_size: 128MB" in warnings[0]
    assert "history file" in warnings[1]
    assert "interrupted cp" in warnings[1]
    assert "pgregent wal-archive push" in warnings[1]
    assert "scram-sha-256" in warnings[2]
    assert "<data_dir>.pgregent/socket" in warnings[4]
