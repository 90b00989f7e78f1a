"""What every section of the configuration is made of."""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ConfigDict, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from pgregent.config.types import (
    ABSOLUTE,
    FLAG,
    HOST_PORT,
    LINES,
    NAME,
    TEXT,
    HostPort,
)

NO_EFFECT = "no effect"
"""How the description of a key begins that is accepted, and changes nothing here."""

Flag = Annotated[bool, FLAG]
Text = Annotated[str, TEXT]
Secret = Annotated[SecretStr, TEXT]
Name = Annotated[str, NAME]
Address = Annotated[HostPort, HOST_PORT]
AbsolutePath = Annotated[Path, ABSOLUTE]
Lines = Annotated[tuple[str, ...], LINES]


class Section(BaseModel):
    """A mapping of known keys. A known key with nothing behind it counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        items = cast(dict[Any, Any], data)
        known = key_names(cls)
        return {k: v for k, v in items.items() if v is not None or k not in known}


def spellings(name: str, info: FieldInfo) -> tuple[str, ...]:
    """The names under which a field is found in a file, the present one first."""
    match info.validation_alias:
        case AliasChoices(choices=choices):
            return tuple(c for c in choices if isinstance(c, str))
        case str() as alias:
            return (alias,)
        case _:
            return (name,)


def plain_type(info: FieldInfo) -> Any:
    """The field's type; of `T | None` the T."""
    kind = info.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(a for a in get_args(kind) if a is not type(None))
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
    return kind


def section_in(info: FieldInfo) -> type[BaseModel] | None:
    """The section that the field holds, if it holds one."""
    kind = plain_type(info)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def key_names(section: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The keys a section knows, other spellings included, each with the section it holds."""
    return {
        spelling: section_in(info)
        for name, info in section.model_fields.items()
        for spelling in spellings(name, info)
    }


def mistake(key: str, expected: str) -> PydanticCustomError:
    """A mistake that concerns several keys; reported at `key` of the section that raises it."""
    return PydanticCustomError("across_keys", "{expected}", {"key": key, "expected": expected})
