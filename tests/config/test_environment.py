"""Settings from the environment."""

from pathlib import Path

import pytest

from pgregent.config.environment import forget_secrets
from pgregent.config.load import check_config, load
from pgregent.config.schema import AgentConfig
from pgregent.config.types import HostPort
from pgregent.core.errors import Refused
from tests.config.test_load import MINIMAL

LOCAL = "local: {path: /srv/demo/dcs.sqlite}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yml"
    path.write_text(MINIMAL)
    return path


def read(text: str = MINIMAL, **environ: str) -> AgentConfig:
    config, found = check_config(text, environ)
    assert config is not None, found
    return config


def refused(file: Path, **environ: str) -> str:
    with pytest.raises(Refused) as error:
        load(file, environ)
    return str(error.value)


def test_plain_settings_win_over_the_file() -> None:
    config = read(
        PATRONI_SCOPE="other",
        PATRONI_NAME="n7",
        PATRONI_NAMESPACE="/db/",
        PATRONI_RESTAPI_LISTEN="0.0.0.0:9008",
        PATRONI_RESTAPI_CONNECT_ADDRESS="h:9008",
        PATRONI_POSTGRESQL_LISTEN="0.0.0.0:5433",
        PATRONI_POSTGRESQL_CONNECT_ADDRESS="h:5433",
        PATRONI_POSTGRESQL_DATA_DIR="/d",
        PATRONI_POSTGRESQL_BIN_DIR="/b",
        PATRONI_POSTGRESQL_PGPASS="/p",
        PATRONI_SUPERUSER_USERNAME="root",
        PATRONI_SUPERUSER_PASSWORD="12345",
        PATRONI_REPLICATION_USERNAME="rep",
        PATRONI_REPLICATION_PASSWORD="pw",
        PATRONI_LOG_LEVEL="DEBUG",
        PATRONI_LOCAL_PATH="/x.sqlite",
        PATRONI_TAGS_NOSYNC="true",
        PATRONI_BOOTSTRAP_DCS_MASTER_START_TIMEOUT="9",
    )
    assert (config.scope, config.name, config.namespace) == ("other", "n7", "/db")
    assert config.restapi.listen == HostPort("0.0.0.0", 9008)
    assert config.restapi.address == HostPort("h", 9008)
    assert config.postgresql.listen == HostPort("0.0.0.0", 5433)
    assert config.postgresql.address == HostPort("h", 5433)
    paths = (config.postgresql.data_dir, config.postgresql.bin_dir, config.postgresql.pgpass)
    assert [str(p) for p in paths] == ["/d", "/b", "/p"]
    auth = config.postgresql.authentication
    assert (auth.superuser.username, auth.replication.username) == ("root", "rep")
    assert auth.superuser.password.get_secret_value() == "12345"
    assert auth.replication.password.get_secret_value() == "pw"
    assert config.log.level == "debug"
    assert config.local is not None
    assert str(config.local.path) == "/x.sqlite"
    assert config.tags.nosync
    assert config.bootstrap.dcs.primary_start_timeout == 9


def test_an_older_name_in_the_file_gives_way() -> None:
    text = MINIMAL + "bootstrap: {dcs: {master_start_timeout: 5}}\n"
    config = read(text, PATRONI_BOOTSTRAP_DCS_PRIMARY_START_TIMEOUT="6")
    assert config.bootstrap.dcs.primary_start_timeout == 6


def test_pgregent_wins_over_patroni_and_empty_is_absent() -> None:
    assert read(PATRONI_NAME="p", PGREGENT_NAME="r").name == "r"
    assert read(PATRONI_NAME="p", PGREGENT_NAME="").name == "p"
    assert read(PATRONI_LOGLEVEL="error").log.level == "error"
    assert read(PATRONI_LOGLEVEL="error", PATRONI_LOG_LEVEL="debug").log.level == "debug"


def test_pgregents_own_section_has_short_names() -> None:
    own = read(
        PGREGENT_SUSPECT_AFTER="2", PGREGENT_LEASE="7", PGREGENT_PEERS="{n2: 'h:1'}"
    ).pgregent
    assert (own.suspect_after, own.lease) == (2, 7)
    assert own.peers == {"n2": HostPort("h", 1)}


@pytest.mark.parametrize("hosts", ["'a:2181','b:2181'", "a:2181,b:2181", "[a, b]", "- a\n- b"])
def test_zookeeper(hosts: str) -> None:
    config = read(
        MINIMAL.replace(LOCAL, ""),
        PATRONI_ZOOKEEPER_HOSTS=hosts,
        PATRONI_ZOOKEEPER_USE_SSL="true",
        PATRONI_ZOOKEEPER_CACERT="/ca",
        PATRONI_ZOOKEEPER_CERT="/cert",
        PATRONI_ZOOKEEPER_KEY="/key",
        PATRONI_ZOOKEEPER_KEY_PASSWORD="pw",
        PATRONI_ZOOKEEPER_VERIFY="off",
        PATRONI_ZOOKEEPER_SET_ACLS="{CN=me: [CREATE, READ]}",
        PATRONI_ZOOKEEPER_AUTH_DATA="{digest: 'u:p'}",
    )
    found = config.zookeeper
    assert found is not None
    assert found.connect_string == "a:2181,b:2181"
    assert found.use_ssl
    assert not found.verify
    assert [str(p) for p in (found.cacert, found.cert, found.key)] == ["/ca", "/cert", "/key"]
    assert found.set_acls == {"CN=me": ("CREATE", "READ")}
    assert found.auth_data["digest"].get_secret_value() == "u:p"


def test_mappings_and_lists_are_yaml() -> None:
    text = MINIMAL + "tags: {nosync: true, rack: 3}\n"
    config = read(
        text,
        PATRONI_TAGS="{rack: 4, region: eu}",
        PATRONI_POSTGRESQL_PARAMETERS="{work_mem: 8MB}",
        PATRONI_POSTGRESQL_PG_HBA="[host all all all scram-sha-256]",
    )
    assert config.tags.all == {"nosync": True, "rack": 4, "region": "eu"}
    assert config.postgresql.parameters == {"work_mem": "8MB"}
    assert config.postgresql.pg_hba == ("host all all all scram-sha-256",)


def test_a_secret_is_the_content_of_a_file(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(" pw \n")
    loaded = load(file, {"PGREGENT_SUPERUSER_PASSWORD_FILE": str(secret)})
    superuser = loaded.config.postgresql.authentication.superuser
    assert superuser.password.get_secret_value() == " pw "
    assert loaded.variables == ("PGREGENT_SUPERUSER_PASSWORD_FILE",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "PATRONI_POSTGRESQL_LISTEN",
            "5432",
            "PATRONI_POSTGRESQL_LISTEN (postgresql.listen): found",
        ),
        ("PGREGENT_LEASE", "soon", 'PGREGENT_LEASE (pgregent.lease): found "soon", expected a num'),
        ("PATRONI_TAGS", "{nosync: 3}", "PATRONI_TAGS (tags.nosync): found 3, expected true or"),
        ("PATRONI_TAGS", "x", 'PATRONI_TAGS (tags): found "x", expected a mapping'),
        ("PATRONI_POSTGRESQL_PG_HBA", "{", "PATRONI_POSTGRESQL_PG_HBA (postgresql.pg_hba): found"),
        ("PATRONI_SUPERUSER_PASSWORD_FILE", "/no/such", "PASSWORD_FILE: cannot read the secret in"),
        ("PATRONI_ETCD3_SRV", "a", "PATRONI_ETCD3_SRV: not supported yet"),
        ("PATRONI_ETCD_HOSTS", "a", "PATRONI_ETCD_HOSTS: etcd's v2 API is not supported"),
        ("PATRONI_RESTAPI_USERNAME", "a", "restapi.authentication.password: missing"),
        ("PATRONI_REWIND_SSLPASSWORD", "a", "PATRONI_REWIND_SSLPASSWORD: not supported yet"),
        ("PATRONI_ZOOKEEPER_HOSTS", "a", "beside zookeeper, expected one DCS"),
        ("PATRONI_TAGS_CLONEFROM", "on", "PATRONI_TAGS_CLONEFROM (tags.clonefrom): found"),
    ],
)
def test_mistakes_name_the_variable(file: Path, name: str, value: str, words: str) -> None:
    text = refused(file, **{name: value})
    assert words in text
    assert "\n" not in text


def test_a_secret_given_in_both_ways_is_refused(file: Path) -> None:
    text = refused(file, PATRONI_SUPERUSER_PASSWORD="s3cret", PATRONI_SUPERUSER_PASSWORD_FILE="/x")
    assert "given beside PATRONI_SUPERUSER_PASSWORD_FILE" in text
    assert "s3cret" not in text


def test_mistakes_show_no_secret_of_the_environment(file: Path) -> None:
    text = refused(
        file, PATRONI_SUPERUSER_PASSWORD="s3cret\nline", PATRONI_ZOOKEEPER_AUTH_DATA="s3"
    )
    assert "s3" not in text


def test_misspelt_variables_get_a_warning_and_others_none(file: Path) -> None:
    environ = {
        "PATRONI_POSTGRESQL_DATADIR": "/d",
        "PGREGENT_SUPERUSER_PASSWRD": "s3cret",
        "PGREGENT_DIR": "/d",
        "PGREGENT_CONFIG_FILE": "/f",
        "PGREGENT_VOLUME_OF_THE_MUSIC": "11",
        "PATRONICTL_CONFIG_FILE": "/f",
        "PATH": "/bin",
    }
    loaded = load(file, environ)
    assert loaded.warnings == (
        "PATRONI_POSTGRESQL_DATADIR: no setting; did you mean PATRONI_POSTGRESQL_DATA_DIR?",
        "PGREGENT_SUPERUSER_PASSWRD: no setting; did you mean PGREGENT_SUPERUSER_PASSWORD?",
    )
    assert loaded.variables == ()


def test_a_whole_configuration_without_a_file(file: Path) -> None:
    environ = {"PATRONI_CONFIGURATION": MINIMAL, "PATRONI_NAME": "other"}
    assert load(None, environ).config.name == "n1"
    warnings = load(file, environ).warnings
    assert warnings == ("PATRONI_CONFIGURATION: ignored: a file is given",)
    with pytest.raises(Refused, match=r"^PGREGENT_CONFIGURATION:2: name: found 5"):
        load(None, {"PGREGENT_CONFIGURATION": MINIMAL.replace("name: n1", "name: 5")})
    with pytest.raises(Refused, match="no configuration: expected a file"):
        load(None, {})


def test_secrets_are_forgotten_and_nothing_else() -> None:
    kept = {
        "PATRONI_NAME": "n1",
        "PATRONI_SUPERUSER_USERNAME": "a",
        "PATRONI_SUPERUSER_PASSWORD_FILE": "/x",
        "PGPASSWORD": "of somebody else",
    }
    secrets = {
        "PATRONI_CONFIGURATION": "a",
        "PATRONI_REPLICATION_PASSWORD": "a",
        "PATRONI_SUPERUSER_PASSWORD": "",
        "PATRONI_ZOOKEEPER_AUTH_DATA": "a",
        "PGREGENT_SUPERUSER_PASSWORD": "a",
        "PGREGENT_ZOOKEEPER_KEY_PASSWORD": "a",
    }
    environ = {**kept, **secrets}
    assert forget_secrets(environ) == tuple(secrets)
    assert environ == kept
