"""The nearest known name to a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """The known name that was probably meant, or None; `alike`: 0 (anything) to 1 (the same)."""
    by_lower = {k.lower(): k for k in known}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=alike)
    return by_lower[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" or an empty text."""
    match = nearest(name, known)
    return f'; did you mean "{match}"?' if match else ""
