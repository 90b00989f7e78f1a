"""What the watch says of each server, without a HAProxy."""

from pgregent.adapters.entry.haproxy import Node
from pgregent.adapters.entry.haproxy_runtime import HaproxyEntry, Word
from pgregent.adapters.entry.routes import Routes

N1, N2 = ("127.0.0.1", 5001), ("127.0.0.1", 5002)


def entry() -> HaproxyEntry:
    nodes = [Node(name, *at, "127.0.0.1", 8008) for name, at in (("n1", N1), ("n2", N2))]
    return HaproxyEntry(nodes, "/nowhere.sock")


def words(of: HaproxyEntry) -> dict[str, Word]:
    said = of._said or {}
    return {name: said[f"primary/{name}"] for name in ("n1", "n2")}


def test_sessions_of_a_deposed_primary_are_cut() -> None:
    watch = entry()
    watch.set_routes(Routes(N1, 1))
    watch.set_routes(Routes(None, 2, reason="an election"))
    assert words(watch) == {"n1": Word.DOWN, "n2": Word.DOWN}


def test_after_a_deaf_time_nobody_is_cut_before_the_primary_is_known() -> None:
    """A watch that was frozen over a failover hears of the new term before the new primary."""
    watch = entry()
    watch.set_routes(Routes(N1, 1))
    watch.set_routes(None)
    watch.set_routes(Routes(None, 2, reason="n2 was not heard yet"))
    assert words(watch) == {"n1": Word.PAUSED, "n2": Word.PAUSED}
    watch.set_routes(Routes(N2, 2))
    assert words(watch) == {"n1": Word.DOWN, "n2": Word.UP}
