"""The section etcd3."""

import pytest

from pgregent.config.etcd import Etcd3
from pgregent.config.load import check_config
from pgregent.config.schema import AgentConfig
from pgregent.config.types import HostPort
from tests.config.test_load import MINIMAL

LOCAL = "local: {path: /srv/demo/dcs.sqlite}"


def etcd(section: str) -> Etcd3:
    config, found = check_config(MINIMAL.replace(LOCAL, f"etcd3: {{{section}}}"))
    assert config is not None, found
    assert config.etcd3 is not None
    return config.etcd3


@pytest.mark.parametrize(
    "hosts", ["['a:2379', 'b:4001']", "'a:2379,b:4001'", "'a , b:4001'", "[a, b:4001]"]
)
def test_hosts_are_a_list_or_patronis_text(hosts: str) -> None:
    found = etcd(f"hosts: {hosts}")
    assert found.members == (HostPort("a", 2379), HostPort("b", 4001))
    assert found.connect_string == "http://a:2379,http://b:4001"
    assert found.login is None


def test_a_single_host_and_a_url() -> None:
    assert etcd("host: a").connect_string == "http://a:2379"
    assert etcd("host: '[::1]:1', protocol: HTTPS").connect_string == "https://[::1]:1"
    found = etcd("url: 'https://me:s3%2Fcret@a:1/'")
    assert (found.connect_string, found.login) == ("https://a:1", ("me", "s3/cret"))
    assert "s3" not in repr(found)
    assert etcd("url: 'http://a'").connect_string == "http://a:2379"


def test_tls_and_access() -> None:
    found = etcd(
        "hosts: [a], protocol: https, cacert: /c/ca.pem, cert: /c/me.pem, key: /c/me.key, "
        "username: me, password: s3cret"
    )
    assert [str(p) for p in (found.cacert, found.cert, found.key)] == [
        "/c/ca.pem",
        "/c/me.pem",
        "/c/me.key",
    ]
    assert found.login == ("me", "s3cret")
    assert "s3cret" not in repr(found)
    assert etcd("url: 'https://a', cert: /c/both.pem").key is None


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("protocol: http", "hosts", "its members"),
        ("hosts: []", "hosts", "a list of hosts, as in `[etcd1:2379"),
        ("hosts: ['0.0.0.0:1']", "hosts", "connected to"),
        ("host: 'a:b'", "host", "a port"),
        ("hosts: [a], host: b", "host", "one of hosts, host and url"),
        ("hosts: [a], url: 'http://me:s3cret@b'", "url", "not shown"),
        ("url: 'a:2379'", "url", "a URL, as in"),
        ("url: 'ftp://a'", "url", "a URL, as in"),
        ("url: 'http://a:99999'", "url", "a URL, as in"),
        ("url: 'http://a/v3'", "url", "a URL, as in"),
        ("url: 'http://s3cret@a'", "url", "a URL, as in"),
        ("url: 'http://me:s3cret@a', username: me", "username", "url names one too"),
        ("hosts: [a], protocol: tcp", "protocol", "one of http, https"),
        ("hosts: [a], username: me", "password", "username and password together"),
        ("hosts: [a], password: s3cret", "username", "username and password together"),
        ("hosts: [a], username: me, password: 53", "password", "not shown"),
        ("hosts: [a], cacert: /c/ca.pem", "cacert", "protocol: https"),
        ("url: 'http://a', cert: /c/me.pem", "cert", "protocol: https"),
        ("hosts: [a], protocol: https, key: /k", "cert", "that key belongs to"),
        ("hosts: [a], protocol: https, cacert: ca.pem", "cacert", "an absolute path"),
        ("hosts: [a], srv: example.org", "srv", "not supported yet"),
        ("hosts: [a], srv_suffix: x", "srv_suffix", "not supported yet"),
        ("hosts: [a], proxy: 'http://b'", "proxy", "not supported yet"),
        ("hosts: [a], use_proxies: true", "use_proxies", "not supported yet"),
        ("hosts: [a], ca_cert: /c", "ca_cert", 'did you mean "cacert"?'),
    ],
)
def test_mistakes(section: str, key: str, words: str) -> None:
    config, found = check_config(MINIMAL.replace(LOCAL, f"etcd3: {{{section}}}"))
    assert config is None
    assert [m.key for m in found] == [f"etcd3.{key}"]
    assert words in found[0].text
    assert "s3cret" not in found[0].text


def test_the_v2_section_says_what_to_write_instead() -> None:
    config, found = check_config(MINIMAL.replace(LOCAL, "etcd: {hosts: [a:2379]}"))
    assert config is None
    assert [m.key for m in found] == ["etcd"]
    assert "write etcd3" in found[0].text


def test_one_dcs() -> None:
    for other in (LOCAL, "zookeeper: {hosts: [a]}"):
        config, found = check_config(MINIMAL.replace(LOCAL, f"etcd3: {{host: a}}\n{other}"))
        assert config is None
        assert ["expected one DCS" in m.text for m in found] == [True]


def from_environment(**environ: str) -> AgentConfig:
    config, found = check_config(MINIMAL.replace(LOCAL, ""), environ)
    assert config is not None, found
    return config


def test_the_environment() -> None:
    found = from_environment(
        PATRONI_ETCD3_HOSTS="'a:2379','b:2379'",
        PATRONI_ETCD3_PROTOCOL="https",
        PATRONI_ETCD3_USERNAME="me",
        PATRONI_ETCD3_PASSWORD="s3cret",
        PATRONI_ETCD3_CACERT="/ca",
        PATRONI_ETCD3_CERT="/cert",
        PATRONI_ETCD3_KEY="/key",
    ).etcd3
    assert found is not None
    assert found.connect_string == "https://a:2379,https://b:2379"
    assert found.login == ("me", "s3cret")
    assert [str(p) for p in (found.cacert, found.cert, found.key)] == ["/ca", "/cert", "/key"]
    for environ in ({"PATRONI_ETCD3_HOST": "a"}, {"PATRONI_ETCD3_URL": "http://a:2379"}):
        found = from_environment(**environ).etcd3
        assert found is not None
        assert found.members == (HostPort("a", 2379),)
