"""What Patroni's keys say, as Patroni 4.1 and older ones write them."""

from typing import Any

import pytest

from pgregent.agent.patroni_word import agents, running, word
from pgregent.core.adoption import Ended, PatronisWord
from pgregent.ports.dcs import Versioned

BASE = "/service/demo"


def entries(**keys: str) -> dict[str, Versioned]:
    return {
        f"{BASE}/{key.replace('__', '/')}": Versioned(value.encode(), 1)
        for key, value in keys.items()
    }


def test_all_of_it() -> None:
    found = word(
        entries(
            initialize="7",
            history='[[1,100,"no recovery target","2026-01-02T03:04:05.5+00:00","b"],[2,200,"x"]]',
            sync='{"leader":"a","sync_standby":"b"}',
            status='{"optime":300,"slots":{"b":300}}',
        ),
        BASE,
    )
    ended = (Ended(1, 100, "no recovery target", 1767323045.5, "b"), Ended(2, 200, "x"))
    assert found == PatronisWord((), "7", "a", 300, ended)
    assert (found.timeline, found.last_primary) == (3, "a")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"history": "", "sync": "", "status": ""},
        {"history": "{}", "sync": "[]", "status": "{}"},
        {"history": '[["1",2,"x"],[1],7]', "sync": '{"leader":null}', "status": '{"optime":"x"}'},
        {"history": "[[[", "sync": "{", "status": "x"},
    ],
)
def test_what_is_absent_or_garbled_says_nothing(keys: dict[str, str]) -> None:
    assert word(entries(**keys), BASE) == PatronisWord()


def test_who_runs() -> None:
    ours, theirs = '{"api_url":"x","pgregent":"1"}', '{"api_url":"x"}'
    there: Any = {"members__a": ours, "members__b": theirs, "leader": "c"}
    assert running(entries(**there), BASE) == ("b", "c")
    assert running(entries(**there), BASE, leader_counts=False) == ("b",)
    assert agents(entries(**there), BASE) == ("a",)
    assert running(entries(leader="a", members__a=ours), BASE) == ()
