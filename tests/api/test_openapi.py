"""docs/openapi.yaml says what there is: the very paths and methods, and codes that do occur."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgregent.api import app
from pgregent.api.actions import Actions
from pgregent.api.cluster import Cluster
from pgregent.api.maintenance import Maintenance
from pgregent.api.operate import Operate
from pgregent.api.signed_config import SignedConfig
from pgregent.ports.dcs import CasDone, CasResult
from tests.api.members import node, primary

FILE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
TOLD_ONCE = {"OPTIONS", "HEAD"}
"""The document says of all paths at once what these do."""


class Nothing:
    """A store that holds nothing."""

    document: dict[str, Any] = {}  # noqa: RUF012

    async def read(self) -> tuple[dict[str, Any], int]:
        return {}, 1

    async def patch(self, changes: Mapping[str, Any]) -> CasResult:
        return CasDone(1)

    async def exchange(self, version: int, document: Mapping[str, Any]) -> CasResult:
        return CasDone(1)

    async def replace(self, document: Mapping[str, Any]) -> None:
        pass


async def reload() -> list[str]:
    return []


async def ask(api_url: str, asked: object) -> None:
    pass


@pytest.fixture(scope="module")
def document() -> Any:
    return yaml.safe_load(FILE.read_text())


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {
        (verb.upper(), path): operation
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    }


def test_its_operations_are_those_of_the_agent(document: Any) -> None:
    state = primary()
    routes = app.routes(
        node(state),
        dict,
        Nothing(),
        Actions(state, lambda _: None, ask, lambda: None),
        Operate(state, b"key", lambda _: None),
        maintenance=Maintenance(node(state), lambda _: None),
        signed_config=SignedConfig(b"key", Nothing(), reload),
        cluster=Cluster(node(state), None),
    )
    found = {(route.method, route.path.rstrip("/") or "/") for route in routes}
    assert {entry for entry in found if entry[0] not in TOLD_ONCE} == operations(document).keys()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (v for k, v in value.items() if k == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_what_it_refers_to_is_there_and_is_used(document: Any) -> None:
    named = {
        f"#/components/{kind}/{name}"
        for kind, entries in document["components"].items()
        if kind != "securitySchemes"
        for name in entries
    }
    assert set(references(document)) == named


def test_what_changes_something_tells_who_may(document: Any) -> None:
    for (verb, path), operation in operations(document).items():
        assert ("security" in operation) == (verb != "GET"), path
        assert operation["summary"]
        assert verb == "GET" or "403" in operation["responses"], path
