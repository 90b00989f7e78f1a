"""Configuration files as text. That PostgreSQL reads them so is in test_postgres_sql.py."""

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgregent.adapters.postgres import render
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.adapters.postgres.sql import Credentials
from pgregent.core.errors import Bug, Refused

UPSTREAM = render.Upstream("10.0.0.1", 5432, "repl", Path("/secret's/pass\\file"), "node 1")


def test_conf_value() -> None:
    assert render.conf_value(True) == "on"
    assert render.conf_value(5) == "5"
    assert render.conf_value("a'b\\c\nd") == "'a''b\\\\c\\nd'"


def test_upstream_conninfo_is_read_back_by_libpq_and_holds_no_password() -> None:
    options = conninfo_to_dict(render.upstream_conninfo(UPSTREAM))
    assert options["passfile"] == "/secret's/pass\\file"
    assert options["application_name"] == "node 1"
    assert options["dbname"] == "postgres"
    assert "password" not in options


def test_a_closed_server_admits_replication_and_the_superuser() -> None:
    given = (
        "# comment",
        "local all all trust",
        "host replication,all all 10.0.0.0/8 md5",
        'host all "all" 10.0.0.0/8 md5',
        'host app,other "app user",boss 10.0.0.0/8 scram-sha-256 # said',
        "host app app 10.0.0.0/8 md5",
        'host app,"a#b" "x#y",,app 10.0.0.0/8 md5',
        "hostssl all +dba 10.0.0.0/8 cert clientcert=verify-full",
        "host all all 0.0.0.0/0 reject",
    )
    assert render.closed_hba(given, "boss") == (
        "# comment",
        'local all "boss" trust',
        "host replication all 10.0.0.0/8 md5",
        'host all "boss" 10.0.0.0/8 md5',
        'host app,other "boss" 10.0.0.0/8 scram-sha-256',
        "hostssl all +dba 10.0.0.0/8 cert clientcert=verify-full",
        'host all "boss" 0.0.0.0/0 reject',
    )
    both = ("host all all ::1/128 md5", "host postgres rewinder ::1/128 md5")
    assert render.closed_hba(both, "boss", "rewinder") == (
        'host all "boss","rewinder" ::1/128 md5',
        'host postgres "rewinder" ::1/128 md5',
    )


def test_quorum_names() -> None:
    assert render.quorum_names(1, ["n2", 'n"1']) == 'ANY 1 ("n""1", "n2")'


@pytest.mark.parametrize(("k", "names"), [(0, ["a"]), (2, ["a"]), (2, ["a", "a"]), (1, [])])
def test_quorum_that_cannot_be_is_a_bug(k: int, names: list[str]) -> None:
    with pytest.raises(Bug):
        render.quorum_names(k, names)


@pytest.mark.parametrize("name", ["", "*", "n" * 64, "узел"])
def test_names_that_postgresql_would_mangle_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="rename the member"):
        render.quorum_names(1, [name])


def test_role_conf_names_every_role_parameter() -> None:
    settings = [line.split(" = ")[0] for line in render.role_conf(render.Role()).splitlines()[1:]]
    assert set(settings) == render.ROLE_PARAMETERS


def test_postgresql_conf_includes_base_first_and_role_last() -> None:
    lines = render.postgresql_conf({"port": 5441, "archive_command": "cp 'x'"}).splitlines()
    assert lines[1:] == [
        "include 'postgresql.base.conf'",
        "archive_command = 'cp ''x'''",
        "port = 5441",
        "include 'pgregent.role.conf'",
    ]
    with pytest.raises(Bug):
        render.postgresql_conf({"Primary_Conninfo": ""})
    with pytest.raises(Refused, match="not a parameter name"):
        render.postgresql_conf({"port = 1\nfsync": False})


def test_lines_and_pass_file_refuse_line_breaks() -> None:
    with pytest.raises(Refused):
        render.lines_conf(["host all all all trust\nhost"])
    with pytest.raises(Refused, match="line break"):
        render.pass_file([render.PassEntry("h", "1", "u", "p\nq")])
    entry = render.PassEntry("::1", "*", "u", "a:b\\c")
    assert render.pass_file([entry]) == "\\:\\:1:*:*:u:a\\:b\\\\c\n"


def test_write_file_is_private_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o644)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / ".f.pgregent").symlink_to(victim)
    render.write_file(path, "new", render.Owner(os.geteuid(), os.getegid()))
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert victim.read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["f", "victim"]


def test_write_file_refuses_in_words_and_keeps_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot write"):
        render.write_file(tmp_path / "absent" / "f", "x")
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(OSError) as caught, full.open("wb", buffering=0) as file:
            file.write(b"x")
        assert "disk is full" in str(render.refusal(caught.value, "cannot write x"))


def test_keep_base_renames_once(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text("original")
    render.keep_base(tmp_path, tmp_path)
    (tmp_path / "postgresql.conf").write_text("ours")
    render.keep_base(tmp_path, tmp_path)
    assert (tmp_path / "postgresql.base.conf").read_text() == "original"


def test_files_of_others_in_a_configuration_directory_are_kept(tmp_path: Path) -> None:
    data, conf = tmp_path / "data", tmp_path / "conf"
    data.mkdir()
    conf.mkdir()
    (data / render.BASE_CONF).write_text("work_mem = 7MB\n")
    (conf / render.HBA_CONF).write_text("local all all peer\n")
    (conf / render.IDENT_CONF).write_text(f"{render.HEADER}")
    for _ in range(2):
        render.keep_base(conf, data)
        render.keep_access_files(conf)
        (conf / render.HBA_CONF).write_text(f"{render.HEADER}ours\n")
    assert (conf / render.BASE_CONF).read_text() == "work_mem = 7MB\n"
    assert (conf / "pg_hba.base.conf").read_text() == "local all all peer\n"
    assert not (conf / "pg_ident.base.conf").exists()


def test_standby_signal_also_removes_recovery_signal(tmp_path: Path) -> None:
    (tmp_path / "recovery.signal").touch()
    render.set_standby_signal(tmp_path, True)
    assert os.listdir(tmp_path) == ["standby.signal"]
    render.set_standby_signal(tmp_path, False)
    assert os.listdir(tmp_path) == []


def test_strip_auto_conf(tmp_path: Path) -> None:
    auto = tmp_path / "postgresql.auto.conf"
    assert render.strip_auto_conf(tmp_path) == ()
    auto.write_text(
        "# Do not edit\nwork_mem = '4MB'\nSynchronous_Standby_Names = ''\n"
        "primary_conninfo 'host=x'\n  recovery_target_lsn='0/1'\nprimary_conninfo_x = 1\n"
        "fsync = off\nsynchronous_commit = 'off'\n"
    )
    stripped = render.strip_auto_conf(tmp_path)
    assert stripped == (
        ("synchronous_standby_names", "''"),
        ("primary_conninfo", "'host=x'"),
        ("recovery_target_lsn", "'0/1'"),
        ("fsync", "off"),
        ("synchronous_commit", "'off'"),
    )
    assert auto.read_text() == "# Do not edit\nwork_mem = '4MB'\nprimary_conninfo_x = 1\n"


@pytest.mark.parametrize(
    ("given", "put"),
    [
        (".", "../n1.pgregent/socket"),
        ("", ""),
        ("/run/postgresql, .", "/run/postgresql, ../n1.pgregent/socket"),
        ("/d/n1/sockets,/d/n1", "../n1.pgregent/socket"),
        ("/tmp", "/tmp"),
        ("../sockets", "../sockets"),
        ("@abstract", "@abstract"),
    ],
)
def test_no_socket_is_in_the_data_directory(given: str, put: str) -> None:
    """pg_rewind would try to copy it from a source that runs."""
    nobody = Credentials("u", "p")
    config = ServerConfig(
        name="n1",
        data_dir=Path("/d/n1"),
        bin_dir=Path("/b"),
        log_file=Path("/d/log"),
        listen_host="127.0.0.1",
        port=5432,
        superuser=nobody,
        replication=nobody,
        owner=None,
        user=None,
        parameters={"unix_socket_directories": given},
    )
    assert config.all_parameters("n1")["unix_socket_directories"] == put
