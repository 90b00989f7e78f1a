"""The section zookeeper."""

import pytest

from pgregent.config.load import check_config
from pgregent.config.types import HostPort
from pgregent.config.zookeeper import Zookeeper
from tests.config.test_load import MINIMAL

LOCAL = "local: {path: /srv/demo/dcs.sqlite}"
TLS = "hosts: [a], use_ssl: true, cacert: /c/ca.pem, cert: /c/me.pem"


def zookeeper(section: str) -> Zookeeper:
    config, found = check_config(MINIMAL.replace(LOCAL, f"zookeeper: {{{section}}}"))
    assert config is not None, found
    assert config.zookeeper is not None
    return config.zookeeper


@pytest.mark.parametrize(
    "hosts",
    [
        "['a:2181', 'b:2182']",
        "'a:2181,b:2182'",
        "'a , b:2182'",
        '"a:2181,b:2182"',
    ],
)
def test_hosts_are_a_list_or_patronis_text(hosts: str) -> None:
    found = zookeeper(f"hosts: {hosts}")
    assert found.hosts == (HostPort("a", 2181), HostPort("b", 2182))
    assert found.connect_string == "a:2181,b:2182"


def test_ipv6_hosts() -> None:
    assert zookeeper("hosts: ['[::1]:2181', '[::1]']").connect_string == "[::1]:2181,[::1]:2181"


def test_tls_and_access() -> None:
    acls = "set_acls: {CN=me: [ALL], CN=you: [read, CREATE]}, auth_data: {digest: 'me:s3cret'}"
    found = zookeeper(f"{TLS}, key: /c/me.key, key_password: s3cret, verify: false, {acls}")
    assert found.use_ssl
    assert not found.verify
    assert (str(found.cacert), str(found.cert)) == ("/c/ca.pem", "/c/me.pem")
    assert str(found.key) == "/c/me.key"
    assert found.set_acls == {"CN=me": ("ALL",), "CN=you": ("READ", "CREATE")}
    assert found.auth_data["digest"].get_secret_value() == "me:s3cret"
    assert found.key_password is not None
    assert found.key_password.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(found)
    assert zookeeper("hosts: [a]").verify


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("use_ssl: false", "hosts", "missing"),
        ("hosts: []", "hosts", "a list of hosts"),
        ("hosts: 5", "hosts", "a list of hosts"),
        ("hosts: ['a:b']", "hosts", "a port"),
        ("hosts: ['0.0.0.0:2181']", "hosts", "connected to"),
        ("hosts: [a], cert: /c/me.pem", "cert", "use_ssl: true"),
        ("hosts: [a], use_ssl: true, key: /c/me.key", "cert", "cert and key together"),
        ("hosts: [a], use_ssl: true, cert: /c/me.pem", "key", "cert and key together"),
        ("hosts: [a], use_ssl: true, key_password: s3cret", "key", "belongs to"),
        ("hosts: [a], use_ssl: true, cacert: ca.pem", "cacert", "an absolute path"),
        ("hosts: [a], set_acls: {me: [FLY]}", "set_acls.me", "READ, WRITE, CREATE"),
        ("hosts: [a], set_acls: {me: []}", "set_acls.me", "READ, WRITE, CREATE"),
        ("hosts: [a], auth_data: {digest: [s3cret]}", "auth_data.digest", "found a list"),
        ("hosts: [a], auth_data: {digest: 53}", "auth_data.digest", "not shown"),
        ("hosts: [a], use_tls: true", "use_tls", 'did you mean "use_ssl"?'),
    ],
)
def test_mistakes(section: str, key: str, words: str) -> None:
    config, found = check_config(MINIMAL.replace(LOCAL, f"zookeeper: {{{section}}}"))
    assert config is None
    assert [m.key for m in found] == [f"zookeeper.{key}"]
    assert words in found[0].text
    assert "s3cret" not in found[0].text
