"""The section `log`."""

from typing import Any

import pytest
import yaml

from pgregent.config.load import check_config
from pgregent.config.log import Log
from tests.config.test_load import MINIMAL


def found(log: dict[str, Any], **environ: str) -> tuple[Log | None, list[tuple[str, str]]]:
    config, said = check_config(MINIMAL + yaml.safe_dump({"log": log}), environ)
    return config.log if config else None, [(f.key, f.text) for f in said]


def test_patronis_section_is_read() -> None:
    text = MINIMAL + (
        "log: {type: json, level: WARN, traceback_level: DEBUG, dateformat: '%H:%M',\n"
        "  format: [levelname, message, {asctime: time}], static_fields: {app: db}, dir: /log,\n"
        "  mode: 0640, file_num: 2, file_size: 1000, loggers: {aiohttp.access: FATAL}}\n"
    )
    config, said = check_config(text)
    assert config is not None
    assert not said
    assert config.log == Log.model_construct(
        type="json",
        level="warning",
        traceback_level="debug",
        format=(("levelname", "levelname"), ("message", "message"), ("asctime", "time")),
        dateformat="%H:%M",
        static_fields={"app": "db"},
        dir=config.log.dir,
        mode=0o640,
        file_num=2,
        file_size=1000,
        loggers={"aiohttp.access": "critical"},
    )
    assert str(config.log.dir) == "/log"


@pytest.mark.parametrize(
    ("log", "key", "words"),
    [
        ({"type": "xml"}, "log.type", "plain, json"),
        ({"traceback_level": "info"}, "log.traceback_level", "debug, error"),
        ({"format": "just text"}, "log.format", "logging's own format"),
        ({"format": "%(nobody)s"}, "log.format", "'nobody'"),
        ({"format": 5}, "log.format", "%(levelname)s"),
        ({"format": []}, "log.format", "a list of a record's fields"),
        ({"format": [5], "type": "json"}, "log.format", "a list of a record's fields"),
        ({"format": [{"asctime": 5}], "type": "json"}, "log.format", "a list of a record's fields"),
        ({"format": ["nobody"], "type": "json"}, "log.format", "'nobody'"),
        ({"format": ["message"]}, "log.format", "needs type json"),
        ({"dateformat": 5}, "log.dateformat", "strftime"),
        ({"dir": "log"}, "log.dir", "an absolute path"),
        ({"mode": 640}, "log.mode", "begins with 0"),
        ({"mode": "rw"}, "log.mode", "begins with 0"),
        ({"file_num": -1}, "log.file_num", "from 0 to"),
        ({"file_size": "25MB"}, "log.file_size", "a whole number"),
        ({"loggers": {"a": "loud"}}, "log.loggers.a", "debug, info"),
        ({"loggers": ["a"]}, "log.loggers", "a mapping"),
        ({"static_fields": {"a": []}}, "log.static_fields.a", "a text"),
    ],
)
def test_mistakes(log: dict[str, Any], key: str, words: str) -> None:
    config, said = found(log)
    assert config is None
    assert [k for k, _ in said] == [key]
    assert words in said[0][1]


def test_what_has_no_effect_is_said() -> None:
    config, said = found(
        {
            "static_fields": {"app": "db"},
            "loggers": {"patroni.postmaster": "WARNING", "pgregent": "info"},
        }
    )
    assert config is not None
    assert all(text.startswith("no effect: ") for _, text in said)
    assert {key for key, _ in said} == {
        "log.static_fields",
        "log.loggers.patroni.postmaster",
    }


def test_variables() -> None:
    config, said = found(
        {},
        PATRONI_LOGFORMAT="%(message)s",
        PATRONI_LOG_DATEFMT="%H",
        PATRONI_LOG_MODE="0600",
        PATRONI_LOG_LOGGERS="{a: error}",
    )
    assert config is not None, said
    assert (config.format, config.dateformat, config.mode) == ("%(message)s", "%H", 0o600)
    assert config.loggers == {"a": "error"}
    config, said = found({}, PATRONI_LOG_TYPE="json", PATRONI_LOG_FORMAT="[message, {asctime: t}]")
    assert config is not None, said
    assert config.format == (("message", "message"), ("asctime", "t"))
