"""Plays a story: faults in the simulated cluster, and what is to happen after each, in order.

A story is text. Unindented lines act, indented ones say what follows, in this order, other things
between: WHO EVENT [words of the reason], or WHO says WORDS. WHO is a node, `old` (the primary when
the story began), `new` (the primary now), `s1`, `s2`, … (the others then, by name), or `any`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.sim.cluster import Cluster
from tests.sim.node import Node

SECONDS = 90.0


@dataclass
class Played:
    """What came of a story; empty `problem` if all went as told."""

    problem: str
    transcript: str


@dataclass
class Story:
    """A story's text, taken apart."""

    title: str
    nodes: int = 3
    settings: dict[str, float | bool | int] = field(default_factory=dict[str, float | bool | int])
    lines: list[str] = field(default_factory=list[str])


def read(path: Path) -> Story:
    """Read a story: `# title`, `nodes N [setting=value …]`, then its lines."""
    title, *rest = path.read_text().splitlines()
    lines = [line for line in rest if line.strip() and not line.startswith("#")]
    head = lines.pop(0).split()
    assert head[0] == "nodes", f"{path}: expected `nodes N`"
    story = Story(title.lstrip("# "), int(head[1]), lines=lines)
    for word in head[2:]:
        name, _, value = word.partition("=")
        story.settings[name] = float(value) if "." in value else int(value)
    return story


class Player:
    """Acts on one simulated cluster and looks for what follows in its trace."""

    def __init__(self, story: Story, seed: int) -> None:
        self.story = story
        self.cluster = Cluster(seed, story.nodes, **story.settings)
        self.names: dict[str, str] = {}
        self.seen = 0

    def play(self) -> Played:
        """Every line in turn; stops at the first that did not come true."""
        self.cluster.start()
        problem = self.cluster.settle(SECONDS)
        self._name_nodes()
        self.seen = len(self.cluster.world.trace)
        for line in self.story.lines:
            if problem:
                break
            problem = self._expect(line.split()) if line[0] == " " else self._act(line.split())
        if not problem:
            self.cluster.checker.at_the_end()
        violations = self.cluster.checker.violations
        return Played(violations[0] if violations else problem, self.cluster.transcript())

    def _name_nodes(self) -> None:
        primary = self.cluster.primary.name
        others = [n for n in sorted(self.cluster.nodes) if n != primary]
        self.names = {"old": primary} | {f"s{i}": n for i, n in enumerate(others, 1)}

    def _name(self, word: str) -> str:
        return self.cluster.primary.name if word == "new" else self.names.get(word, word)

    def _act(self, words: list[str]) -> str:
        if words == ["settle"]:
            return self.cluster.settle(SECONDS)
        if words[0] == "wait":
            self.cluster.run(float(words[1]))
            return ""
        if words[0] == "dcs":
            self.cluster.dcs.away = words[1] == "away"
            return ""
        self.seen = len(self.cluster.world.trace)
        *verb, who = words
        action = ACTIONS[" ".join(verb)]
        action(self.cluster, self.cluster[self._name(who)])
        return ""

    def _expect(self, words: list[str]) -> str:
        """Run until it is in the trace, after what was expected before it."""
        negative = words[0] == "never"
        who, event, *text = words[1:] if negative else words
        wanted = " ".join(text)
        found: list[int] = []

        def happened() -> bool:
            trace = self.cluster.world.trace
            name = None if who == "any" else self._name(who)
            for i in range(self.seen, len(trace)):
                _, speaker, what = trace[i]
                said = what.startswith(f"[{event}]") or event == "says"
                spoke = (name is None or speaker == name) and said
                if spoke and wanted in re.sub(r"\bn\d+\b", self._called, what):
                    found.append(i)
                    return True
            return False

        if negative:
            return f"it came true: {' '.join(words)}" if happened() else ""
        if not (happened() or (self.cluster.run(SECONDS, happened) or found)) or not found:
            return f"it did not happen: {' '.join(words)}"
        self.seen = found[0] + 1
        return ""

    def _called(self, match: re.Match[str]) -> str:
        return next((k for k, v in self.names.items() if v == match[0]), match[0])


def _cut(cluster: Cluster, node: Node) -> None:
    others = [n for n in cluster.nodes if n != node.name]
    ways = {
        (kind, *way) for kind in ("peers", "sql") for o in others for way in _both(node.name, o)
    }
    cluster.world.net.blocked |= ways | {("dcs", *way) for way in _both(node.name, "dcs")}


def _both(a: str, b: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ((a, b), (b, a))


def _mute(cluster: Cluster, node: Node) -> None:
    cluster.world.net.blocked |= {("peers", node.name, o) for o in cluster.nodes if o != node.name}


def _stop_all(cluster: Cluster, node: Node) -> None:
    del node
    for member in cluster.nodes.values():
        member.leave(True)


def _heal(cluster: Cluster, node: Node) -> None:
    del node
    cluster.world.net.blocked.clear()


ACTIONS: dict[str, Callable[[Cluster, Node], None]] = {
    "kill postgres of": lambda _, node: node.kill_server(),
    "kill agent of": lambda _, node: node.kill_agent(),
    "kill node": lambda _, node: node.kill(),
    "power off": lambda _, node: node.kill(silently=True),
    "start": lambda _, node: node.start_agent(),
    "freeze": lambda _, node: node.freeze(),
    "thaw": lambda _, node: node.thaw(),
    "cut off": _cut,
    "mute": _mute,
    "heal": _heal,
    "leave": lambda _, node: node.leave(),
    "stop all at": _stop_all,
    "lose data of": lambda _, node: node.lose_data(state_too=False),
    "lose data and state of": lambda _, node: node.lose_data(state_too=True),
    "pause replay of": lambda _, node: node.pause_replay(True),
    "resume replay of": lambda _, node: node.pause_replay(False),
}
