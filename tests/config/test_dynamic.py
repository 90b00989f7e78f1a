"""The dynamic configuration: into the DCS, and out of it."""

import json

import pytest

from pgregent.config.dynamic import document, unsupported
from pgregent.config.load import check_config, load, parse_dynamic
from pgregent.core.errors import Refused
from tests.config.test_load import MINIMAL
from tests.config.test_seed import SEED

WHERE = "the DCS key /service/demo/config"


def test_the_document_has_patronis_shape_and_no_defaults() -> None:
    dcs = load(SEED / "postgres0.yml", {}).config.bootstrap.dcs
    assert json.loads(document(dcs)) == {
        "ttl": 30,
        "loop_wait": 10,
        "retry_timeout": 10,
        "maximum_lag_on_failover": 10485760,
        "synchronous_mode": True,
        "primary_start_timeout": 300,
        "postgresql": {
            "use_pg_rewind": True,
            "use_slots": True,
            "parameters": {
                "wal_level": "replica",
                "wal_keep_size": "128MB",
                "max_wal_senders": 10,
                "max_replication_slots": 10,
                "archive_mode": "always",
                "archive_timeout": "1800s",
                "archive_command": "mkdir -p /tmp/wal_archive && test ! -f /tmp/wal_archive/%f && "
                "cp %p /tmp/wal_archive/%f",
            },
        },
    }


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "synchronous_mode: quorum",
        "{synchronous_mode: off, ttl: 0x10}",
        "{primary_start_timeout: 1.5, postgresql: {pg_hba: [host all all 0.0.0.0/0 md5]}}",
        "{postgresql: {parameters: {a: '007', b: '8', c: true, d: 1.5, e: '²'}}}",
    ],
)
def test_what_is_stored_is_read_back(text: str) -> None:
    inner = text if text.startswith("{") else f"{{{text}}}"
    config, found = check_config(MINIMAL + f"bootstrap: {{dcs: {inner}}}\n")
    assert config is not None, found
    dcs = config.bootstrap.dcs
    assert parse_dynamic(document(dcs), WHERE).dcs == dcs


def test_no_dynamic_configuration_is_an_empty_document() -> None:
    config, _ = check_config(MINIMAL)
    assert config is not None
    assert document(config.bootstrap.dcs) == "{}"


def test_mistakes_are_those_of_the_file() -> None:
    text = '{"ttl": "fast", "standby_cluster": {}, "synchronus_mode": "on", "postgresql": {"x": 1}}'
    with pytest.raises(Refused) as refused:
        parse_dynamic(text, WHERE)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"4 mistakes in {WHERE}"
    assert lines[1].startswith(f'{WHERE}: ttl: found "fast", expected a number of seconds')
    assert f"{WHERE}: standby_cluster: not supported yet (Patroni's)" in lines
    assert f'{WHERE}: synchronus_mode: unknown key; did you mean "synchronous_mode"?' in lines


HALF_A_CHARACTER = r'{"postgresql": {"parameters": {"search_path": "\ud800"}}}'


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "[" * 100_000, HALF_A_CHARACTER])
def test_what_is_no_dynamic_configuration_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="the DCS key"):
        parse_dynamic(text, WHERE)


def test_warnings_are_those_of_the_file() -> None:
    text = '{"postgresql": {"parameters": {"wal_keep_segments": 2}, "pg_hba": ["local a a md5"]}}'
    loaded = parse_dynamic(text, WHERE)
    assert loaded.dcs.postgresql.parameters == {"wal_keep_size": "32MB"}
    assert [w.split(": ")[1] for w in loaded.warnings] == [
        "postgresql.parameters.wal_keep_segments",
        "postgresql.pg_hba.0",
    ]


def test_what_a_cluster_cannot_run_with_yet() -> None:
    asked = parse_dynamic('{"synchronous_mode": "quorum", "synchronous_node_count": 2}', WHERE).dcs
    assert unsupported(asked) == ()
    asked = parse_dynamic('{"synchronous_node_count": 2}', WHERE).dcs
    assert [key for key, _ in unsupported(asked)] == ["synchronous_mode"]


@pytest.mark.parametrize(
    ("dynamic", "expected"),
    [
        ("{}", 30),
        ("{primary_stop_timeout: 0, postgresql: {pg_ctl_timeout: 7}}", 7),
        ("{primary_stop_timeout: 5, postgresql: {pg_ctl_timeout: 7}}", 5),
        ("{master_stop_timeout: 5}", 5),
    ],
)
def test_primary_stop_timeout_bounds_a_clean_stop(dynamic: str, expected: float) -> None:
    config, found = check_config(MINIMAL + f"bootstrap: {{dcs: {dynamic}}}\n")
    assert config is not None, found
    assert config.stop_timeout(config.bootstrap.dcs) == expected
