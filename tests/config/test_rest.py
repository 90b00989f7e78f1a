"""The sections `restapi` and `ctl`: what goes together, and that secrets are not shown."""

import pytest

from pgregent.config.load import check_config
from pgregent.config.schema import AgentConfig
from tests.config.test_load import MINIMAL

LISTEN = 'restapi: {listen: "127.0.0.1:8008"'


def read(rest: str = "", ctl: str = "", **environ: str) -> AgentConfig | str:
    """The configuration with these keys in its sections, or what is wrong with it."""
    text = MINIMAL.replace(LISTEN, f"{LISTEN}{rest and ', '}{rest}")
    config, found = check_config(f"{text}\nctl: {{{ctl}}}\n", environ)
    return config or "\n".join(f"{f.key}: {f.text}" for f in found)


def test_sections_that_are_right() -> None:
    config = read(
        "authentication: {username: admin, password: one}, certfile: /c, keyfile: /k, cafile: /a, "
        "keyfile_password: two, ciphers: HIGH, verify_client: required, "
        "allowlist: [127.0.0.1, 10.0.0.0/8, 'fd00::/8', db1.example], "
        "allowlist_include_members: true",
        "authentication: {username: patronictl, password: three}, insecure: on",
    )
    assert isinstance(config, AgentConfig)
    rest, ctl = config.restapi, config.ctl
    assert (rest.scheme, rest.verify_client) == ("https", "required")
    assert rest.allowlist == ("127.0.0.1", "10.0.0.0/8", "fd00::/8", "db1.example")
    assert (ctl.insecure, ctl.authentication and ctl.authentication.username) == (
        True,
        "patronictl",
    )
    shown = repr(config)
    assert not any(secret in shown for secret in ("one'", "two'", "three'"))


def test_patronis_variables() -> None:
    config = read(
        PATRONI_RESTAPI_USERNAME="admin",
        PATRONI_RESTAPI_PASSWORD="one",
        PATRONI_RESTAPI_CERTFILE="/c",
        PATRONI_RESTAPI_CAFILE="/a",
        PATRONI_RESTAPI_VERIFY_CLIENT="optional",
        PATRONI_RESTAPI_ALLOWLIST="'127.0.0.1','10.0.0.0/8'",
        PATRONI_RESTAPI_ALLOWLIST_INCLUDE_MEMBERS="true",
        PATRONI_RESTAPI_HTTP_EXTRA_HEADERS="{X-A: b}",
        PATRONI_CTL_INSECURE="on",
        PATRONI_CTL_USERNAME="a",
        PATRONI_CTL_PASSWORD="b",
    )
    assert isinstance(config, AgentConfig), config
    rest = config.restapi
    assert rest.authentication is not None
    assert rest.authentication.password.get_secret_value() == "one"
    assert rest.allowlist == ("127.0.0.1", "10.0.0.0/8")
    assert (rest.verify_client, rest.extra_headers) == ("optional", {"X-A": "b"})
    assert rest.allowlist_include_members
    assert config.ctl.insecure
    assert config.ctl.authentication is not None


@pytest.mark.parametrize(
    ("rest", "ctl", "words"),
    [
        ("keyfile: /k", "", "restapi.certfile: expected the certificate that keyfile belongs to"),
        ("ciphers: HIGH", "", "restapi.certfile: expected the certificate that ciphers belongs"),
        ("verify_client: required, cafile: /a", "", "restapi.certfile: expected a certificate"),
        ("verify_client: optional, certfile: /c", "", "restapi.cafile: expected the authorities"),
        ("verify_client: maybe", "", "restapi.verify_client: found"),
        ("certfile: c.pem", "", "restapi.certfile: found"),
        ("allowlist: [10.0.0.0/99]", "", "expected a list of addresses, networks and host names"),
        ("allowlist: [1.2.3]", "", "expected a list of addresses"),
        ("allowlist: {a: b}", "", "expected a list of addresses"),
        ('http_extra_headers: {"a b": c}', "", "expected a mapping of header to value"),
        ('http_extra_headers: {a: "b\\r\\nc: d"}', "", "expected a mapping of header to value"),
        ("authentication: {username: a}", "", "restapi.authentication.password: missing"),
        ("authentication: {username: 'a:b', password: c}", "", "expected a name without a colon"),
        ("server_tokens: all", "", "expected one of original, productonly, minimal"),
        ("", "keyfile: /k", "ctl.certfile: expected the certificate that keyfile belongs to"),
        ("", "insecur: true", "ctl.insecur: unknown key; did you mean"),
    ],
)
def test_what_does_not_go_together(rest: str, ctl: str, words: str) -> None:
    found = read(rest, ctl)
    assert isinstance(found, str)
    assert words in found
