"""A write whose reply was lost is under way until a later one of one's own has landed."""

import pytest

from pgregent.core.effects import WriteRegister
from pgregent.core.events import Switchover
from tests.sim.world import Work
from tests.stories.story import Story


def test_a_handover_under_way_is_overtaken_before_the_old_primary_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """n1 hands over to n2 and never hears of it, for the write has not arrived; it starts again in
    place, acknowledges with n3, and then the write arrives."""
    story = Story()
    under_way: list[WriteRegister] = []
    whole = story.dcs.cas

    def cas(member: str, write: WriteRegister) -> Work:
        if write.register.term == 2 and not under_way:
            under_way.append(write)
            yield 1.0
            return None
        return (yield from whole(member, write))

    monkeypatch.setattr(story.dcs, "cas", cas)
    agent = story["n1"].agent
    assert agent is not None
    agent.post(Switchover(1, "n2"))
    story.until("n1 hands over", lambda: bool(under_way), 10.0)
    story["n1"].kill_agent()
    story["n1"].start_agent()
    story.primary_is("n1", within=5.0)
    story.block("sql", "n1", "n2")
    story.acknowledges("n1")
    assert not story.dcs.apply(under_way[0]), "n2 is appointed, and n1 and n3 go on without it"
    story.heal()
    story.well()
