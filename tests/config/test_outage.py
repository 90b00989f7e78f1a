"""How long writes can be out, from the settings."""

from pgregent.config.dynamic import Dcs
from pgregent.config.outage import outages
from pgregent.config.schema import Pgregent


def bounds(own: Pgregent, dcs: Dcs) -> dict[str, float | None]:
    return {outage.fault: outage.seconds for outage in outages(own, dcs)}


def test_silence_costs_suspect_after_and_a_kill_does_not() -> None:
    slow = bounds(Pgregent(suspect_after=4, lease=9), Dcs())
    fast = bounds(Pgregent(), Dcs())
    changed = {fault: (fast[fault], slow[fault]) for fault in fast if fast[fault] != slow[fault]}
    assert changed == {
        "the node of the primary frozen or cut off (silence)": (1.5, 4.5),
        "PostgreSQL of the primary hangs, its agent does not": (3.5, 12.5),
        "the only standby frozen or cut off": (1.5, 4.5),
    }


def test_patronis_timers_change_nothing() -> None:
    timers = Dcs(ttl=3600, loop_wait=3600, retry_timeout=3600)
    assert outages(Pgregent(), timers) == outages(Pgregent(), Dcs())


def test_strict_mode_waits_for_the_only_standby() -> None:
    found = bounds(Pgregent(), Dcs(synchronous_mode_strict=True))
    assert found["the only standby lost"] is None
    assert found["a standby lost while another one streams"] == 0


def test_with_two_to_confirm_the_last_but_one_standby_costs_a_change_of_the_rule() -> None:
    found = bounds(Pgregent(), Dcs(synchronous_node_count=2))
    assert found["a standby lost while 2 others stream"] == 0
    assert found["one of the last 2 standbys frozen or cut off"] == 1.5
    strict = bounds(Pgregent(), Dcs(synchronous_node_count=2, synchronous_mode_strict=True))
    assert strict["the only standby lost"] is None
    assert strict["one of the last 2 standbys killed"] == found["one of the last 2 standbys killed"]


def test_losing_the_dcs_costs_nothing() -> None:
    assert bounds(Pgregent(), Dcs())["the DCS lost"] == 0
