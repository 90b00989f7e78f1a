"""What people do at any moment: commands, settings, machines that come and go, and by hand."""

from dataclasses import replace

from pgregent.core.events import Reinitialize, Restart, RestoreDcs, Switchover
from pgregent.core.types import PgState
from pgregent.core.view import Leaving
from tests.sim.chaos import Chaos
from tests.sim.faults import fault
from tests.sim.node import Node

MOST_NODES = 6


@fault("switchover")
def switchover(chaos: Chaos) -> bool:
    register, agent = chaos.register, chaos.node().agent
    if register is None or agent is None:
        return False
    candidate = chaos.random.choice(("", *chaos.cluster.nodes))
    agent.node.say(f"is asked for a switchover to {candidate or 'anybody'}")
    agent.post(Switchover(register.term, candidate))
    return True


@fault("restart")
def restart(chaos: Chaos) -> bool:
    agent = chaos.node().agent
    if agent is not None:
        agent.node.say("is asked to restart its server")
        agent.post(Restart())
    return agent is not None


@fault("reinitialize")
def reinitialize(chaos: Chaos) -> bool:
    agent = chaos.standby().agent
    if agent is not None:
        agent.node.say("is asked to make its data directory anew")
        agent.post(Reinitialize())
    return agent is not None


@fault("pause")
def pause(chaos: Chaos) -> bool:
    """Each member hears it when it hears it, and so the end of it."""
    if any(node.settings.paused for node in chaos.nodes()):
        return False
    _set_paused(chaos, True)
    chaos.later(lambda: _set_paused(chaos, False))
    return True


def _set_paused(chaos: Chaos, paused: bool) -> None:
    chaos.world.say("*", "the cluster is paused" if paused else "the cluster is resumed")
    for node in chaos.nodes():
        node.settings = replace(node.settings, paused=paused)
        chaos.world.call(chaos.world.between(0.001, 0.5), None, _hear_settings, node)


def _hear_settings(node: Node) -> None:
    if node.agent is not None:
        node.agent.state.settings = node.settings


@fault("leave")
def leave(chaos: Chaos) -> bool:
    node = chaos.node()
    struck = node.leave()
    chaos.world.call(chaos.random.uniform(0.5, 12.0), None, _return, chaos, node, 80)
    return struck


def _return(chaos: Chaos, node: Node, tries: int) -> None:
    if node.agent is None:
        node.start_agent()
    elif tries:
        # It may not even have heard it yet.
        chaos.world.call(1.0, None, _return, chaos, node, tries - 1)


@fault("leave for good")
def leave_for_good(chaos: Chaos) -> bool:
    """A standby is told to leave, and its machine is taken away once it has."""
    node = chaos.standby()
    settings = node.settings
    staying = [n for n in chaos.nodes() if n is not node and n.agent is not None]
    if len(staying) <= max(1, settings.minimum_k) or not node.leave():
        return False
    chaos.world.call(1.0, None, _take_away, chaos, node, 80)
    return True


def _take_away(chaos: Chaos, node: Node, tries: int) -> None:
    if not node.left or node.agent is not None:
        if tries:
            node.world.call(1.0, None, _take_away, chaos, node, tries - 1)
    elif chaos.on and _can_spare(chaos, node):
        node.say("its machine is taken away")
        node.expected = False
    else:
        node.start_agent()


def _can_spare(chaos: Chaos, node: Node) -> bool:
    """Not in an election: it may be appointed for its vote, and nobody can be without it then."""
    staying, register = [n for n in chaos.nodes() if n is not node], chaos.register
    if register is None or register.electing:
        return False
    return len(staying) > node.settings.minimum_k and chaos.holds_all(staying)


@fault("join")
def join(chaos: Chaos) -> bool:
    """A new machine without data; not before the members have written a DCS again that lost its
    content: with all of them away it would rightly create a cluster."""
    if len(chaos.cluster.nodes) >= MOST_NODES or chaos.cluster.checker.forgotten is not None:
        return False
    node = chaos.cluster.add_node()
    node.say("is new")
    node.start_agent()
    chaos.cluster.direct_client(node.name)
    return True


@fault("change a setting")
def change_setting(chaos: Chaos) -> bool:
    """On one node, with the restart of its agent that this takes."""
    node = chaos.node()
    changed = chaos.random.choice(
        (
            {"nofailover": not node.settings.nofailover},
            {"nosync": not node.settings.nosync},
            {"standby_grace": chaos.random.choice((1.0, 5.0, 60.0))},
        )
    )
    node.settings = replace(node.settings, **changed)
    return _restart_agent(chaos, node)


def _restart_agent(chaos: Chaos, node: Node) -> bool:
    struck = node.agent is not None
    node.kill_agent()
    chaos.come_back(node, 1.0)
    return struck


@fault("change k")
def change_k(chaos: Chaos) -> bool:
    """Everywhere, one after the other."""
    most = 2 if chaos.random.random() < chaos.cluster.k2 else 1
    wanted = chaos.random.randint(1, most)
    minimum = chaos.random.randint(0, min(wanted, len(chaos.nodes()) - 1))
    for node in chaos.nodes():
        node.settings = replace(node.settings, nodes_wanted_k=wanted, minimum_k=minimum)
        _restart_agent(chaos, node)
    chaos.world.say("*", f"the operator wants k = {wanted}, at least {minimum}")
    return True


@fault("restore the register")
def restore_dcs(chaos: Chaos) -> bool:
    """The operator has a copy written again: one that is known to be the newest that there was, so
    that nothing is lost by it."""
    newest = chaos.cluster.checker.forgotten
    if newest is None:
        return False
    agents = [n.agent for n in chaos.nodes() if n.agent is not None]
    holders = [a for a in agents if a.state.register == newest and a.state.register_lost]
    if not holders:
        return False
    agent = chaos.random.choice(holders)
    agent.node.say("the operator has the register written again")
    agent.post(RestoreDcs(newest.seq))
    return True


@fault("promoted by hand")
def promote_by_hand(chaos: Chaos) -> bool:
    """Somebody calls pg_promote on a standby; it takes the next number that is free there. Only
    where the others are whole and hold all that counts: else it is not promised that the rest can
    elect."""
    node = chaos.standby()
    server, others = node.server, [n for n in chaos.nodes() if n is not node]
    if server is None or not chaos.holds_all(others) or not all(map(chaos.whole, others)):
        return False
    if any(n.agent and n.agent.state.leaving is not Leaving.NO for n in others):
        # It may be handing over to just this one.
        return False
    if _election_is_near(chaos):
        # It may be appointed for what it voted before, and nobody can be without its log then.
        return False
    if server.state is not PgState.STANDBY or server.promoting:
        return False
    server.node.say("is promoted by hand")
    server.by_hand = server.disk.foreign = True
    server.promotion_takes = (0.001, 0.15)
    server.request_promotion()
    return True


def _election_is_near(chaos: Chaos) -> bool:
    primary, register = chaos.cluster.primary, chaos.register
    agents = [n.agent for n in chaos.nodes() if n.agent is not None]
    suspected = any(a.state.suspicion or a.state.vote or a.state.switchover for a in agents)
    alive = primary.agent is not None and primary.server is not None and not primary.frozen
    return suspected or not alive or register is None or register.electing


@fault("names changed by hand")
def change_names(chaos: Chaos) -> bool:
    """Somebody sets synchronous_standby_names to what nobody meets (a weaker value would be a
    promise broken by hand)."""
    server = chaos.node().server
    if server is None or server.state is not PgState.PRIMARY:
        return False
    server.node.say("its synchronous_standby_names are changed by hand")
    server.disk.conf.names = 'ANY 1 ("somebody")'
    server.reload()
    return True
