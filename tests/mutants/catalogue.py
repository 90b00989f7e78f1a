"""Mistakes that somebody could make, and which test notices each (docs/mutants.md)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedules:
    """A catcher: random schedules of this theme in the simulator, with the seeds 1 to `last`."""

    theme: str
    last: int


Catcher = Schedules | str
"""A test's node id, or schedules."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of `file` (below src/pgregent) that takes `new` for `old`, which is there once."""

    name: str
    file: str
    old: str
    new: str
    why: str
    """What the mistake leads to."""
    caught_by: Catcher
    says: str
    """A part of what the catcher's assertion says then; an invariant's name where one is broken."""


RULES = "tests/stories/test_mutants_rules.py::"
ELECTIONS = "tests/stories/test_mutants_elections.py::"
PROMOTIONS = "tests/stories/test_mutants_promotions.py::"
AUTHORITY = "tests/stories/test_mutants_authority.py::"
AMNESIA = "tests/stories/test_mutants_amnesia.py::"
READER = "tests/stories/test_mutants_reader.py::"
GATE = "tests/stories/test_mutants_gate.py::"
REGISTER = "tests/stories/test_mutants_register.py::"
RULE_STORIES = "tests/stories/test_rules.py::"
DCS_STORIES = "tests/stories/test_dcs.py::"
LOOP = "tests/agent/test_loop.py::"
REAL = "tests/mutants/test_real_postgres.py::"
GUARD = "tests/conformance/test_guard.py::"
FAILOVER = "tests/stories/test_failover.py::"
PAUSE = "tests/stories/test_pause.py::"
REINITIALIZE = "tests/stories/test_reinitialize.py::"
RESTART = "tests/stories/test_restart.py::"

MUTANTS: tuple[Mutant, ...] = (
    # The durability rule and its change
    Mutant(
        name="rule applied before the CAS",
        file="core/primary.py",
        old="""\
    if state.cas is None:
        write(state, appended(""",
        new="""\
    if state.cas is None:
        do(state, ApplyRule(wanted, checkpoint=False))
        write(state, appended(""",
        why="A primary that is cut off shrinks its rule by itself, while another is appointed.",
        caught_by=RULES + "test_a_primary_that_is_cut_off_does_not_shrink_its_rule_by_itself",
        says="S2: ",
    ),
    Mutant(
        name="older rule forgotten at the CAS",
        file="core/durability.py",
        old="rules=with_rule(mixed, rule), why=why)",
        new="rules=(rule,), why=why)",
        why="Until the names are in force, commits are acknowledged under the rule before.",
        caught_by=RULES + "test_the_rule_before_holds_while_the_names_are_the_old_ones",
        says="S1: ",
    ),
    Mutant(
        name="older rules dropped before the barrier",
        file="core/primary.py",
        old="elif state.barriered != rule and rule.strict:",
        new="elif state.barriered != rule and len(register.rules) > 1:",
        why="What was acknowledged under the rule before need not be on a member of the new one.",
        caught_by=RULES
        + "test_the_rule_before_holds_until_a_barrier_shows_that_the_new_one_is_met",
        says="S1: ",
    ),
    Mutant(
        name="older rules dropped at the appointment",
        file="core/election.py",
        old="rules=with_rule(register, make_rule(state, winner, followers)),",
        new="rules=(make_rule(state, winner, followers),),",
        why="An election before the barrier can be won by one that holds nothing of the old term.",
        caught_by=RULES + "test_an_appointee_dies_and_one_that_is_behind_is_left",
        says="S1: ",
    ),
    Mutant(
        name="older rules dropped at the handover",
        file="core/switchover.py",
        old="rules=with_rule(register, make_rule(state, heir, others)),",
        new="rules=(make_rule(state, heir, others),),",
        why="The same where the office was handed over.",
        caught_by=RULES + "test_the_heir_of_a_handover_dies_and_one_that_is_behind_is_left",
        says="S1: ",
    ),
    Mutant(
        name="a barrier whose wait was cut short taken for acknowledged",
        file="adapters/postgres/sql.py",
        old="""\
    if warnings:
""",
        new="""\
    if False:
""",
        why="A WARNING says that no standby has it.",
        caught_by="tests/conformance/test_postgres_sql.py::test_barrier",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="barrier without a checkpoint after empty names",
        file="core/primary.py",
        old="checkpoint = state.names_were_empty and not empty",
        new="checkpoint = False",
        why="The checkpointer has not seen the names: the barrier is acknowledged by nobody.",
        caught_by=RULES + "test_the_first_standby_confirms_from_the_barrier_on",
        says="n1 acknowledged a write",
    ),
    Mutant(
        name="names empty on a standby",
        file="core/durability.py",
        old="return f'ANY 1 (\"{PLACEHOLDER}\")'",
        new='return ""',
        why="A promotion begins without the sync flag, and commits do not wait for anybody.",
        caught_by=RULES + "test_a_successor_has_the_minimum_too",
        says="n2 acknowledged a write",
    ),
    Mutant(
        name="a minimum that is ignored by a successor",
        file="core/durability.py",
        old="""\
< state.settings.minimum_k:
        return Rule(writer, 0, (), strict=True)""",
        new="""\
< 0:
        return Rule(writer, 0, (), strict=True)""",
        why="It acknowledges alone, though the operator wants one standby at least.",
        caught_by=RULES + "test_a_successor_has_the_minimum_too",
        says="n2 acknowledged a write",
    ),
    Mutant(
        name="mixture not listed",
        file="core/durability.py",
        old="return () if mixed in (*rules, rule) else (mixed,)",
        new="return ()",
        why="While k changes, walsenders let through what satisfies neither rule.",
        caught_by=RULES + "test_one_of_three_may_let_a_commit_through_while_two_are_to_confirm",
        says="serves('n2')",
    ),
    Mutant(
        name="stale walsender left",
        file="core/primary.py",
        old="all_walsenders=rule.k > 1",
        new="all_walsenders=False",
        why="It waits for an older, smaller k, and lets the barrier through too.",
        caught_by=RULES + "test_a_walsender_that_still_waits_for_one_when_two_are_wanted",
        says="S1: ",
    ),
    Mutant(
        name="one that is past the fork counted",
        file="core/durability.py",
        old="""\
        current = current and record.upstream_timeline == register.term
""",
        new="",
        why="It is taken to have flushed what it does not have.",
        caught_by=RULES + "test_who_streams_the_rest_of_an_older_timeline_does_not_count",
        says=") == False",
    ),
    Mutant(
        name="a standby counted that its primary does not see",
        file="core/durability.py",
        old="record.incarnation.label.lower() not in labels",
        new="not labels",
        why="The rule keeps one that confirms nothing.",
        caught_by=RULE_STORIES + "test_standby_dies_and_writes_go_on",
        says="n3 leaves the rule",
    ),
    # Elections
    Mutant(
        name="one seal too few",
        file="core/types.py",
        old=">= len(self.members) - self.k + 1",
        new=">= len(self.members) - self.k",
        why="A set of voters that misses every member who acknowledged.",
        caught_by=Schedules("crashes", last=60),
        says="S1: ",
    ),
    Mutant(
        name="term-blind LSN",
        file="core/types.py",
        old="""\
    timeline: int
    lsn: int
""",
        new="""\
    timeline: int = field(compare=False)
    lsn: int
""",
        why="The longer log of an older term beats the newer one.",
        caught_by=ELECTIONS + "test_the_longer_log_of_an_older_term_is_not_the_newer_one",
        says="S1: ",
    ),
    Mutant(
        name="appointment without a timeline check",
        file="core/election.py",
        old="if not vote.eligible or (timeline not in appointed and timeline >= forgotten):",
        new="if not vote.eligible:",
        why="A log on a timeline that nobody was appointed for is the newest.",
        caught_by=ELECTIONS + "test_one_promoted_by_hand_is_not_appointed",
        says="S1: ",
    ),
    Mutant(
        name="a term that is on a disk already",
        file="core/election.py",
        old="term = 1 + max([newest, *(v.newest_history for v in cast.values())])",
        new="term = 1 + newest",
        why="Two timelines with one number.",
        caught_by=ELECTIONS + "test_one_promoted_by_hand_is_not_appointed",
        says="timeline 2 is on n2's disk",
    ),
    Mutant(
        name="a log of a timeline that it cannot have",
        file="core/standby.py",
        old="""\
    elif postgres.state is PgState.STOPPED and postgres.was_primary:
        timeline = postgres.disk_timeline
""",
        new="",
        why="Promoted by hand and stopped again, it has the number of a term, but not its log.",
        caught_by=ELECTIONS + "test_one_promoted_by_hand_while_its_agent_was_down_does_not_vote",
        says="S1: ",
    ),
    Mutant(
        name="a lost register written again twice alike",
        file="core/amnesia.py",
        old="known = max(register.seq, register.round, state.durable.rewritten)",
        new="known = max(register.seq, register.round)",
        why="The wall clock was set back in between.",
        caught_by="tests/sim/test_regressions.py::test_ends_well[seed-27876]",
        says="S7: ",
    ),
    Mutant(
        name="an ineligible leader skipped",
        file="core/election.py",
        old="if v.position <= vote.position)",
        new="if v.position <= vote.position or not v.eligible)",
        why="Only it has what was acknowledged last.",
        caught_by=FAILOVER + "test_member_that_is_ahead_but_paused_is_waited_for",
        says="S1: ",
    ),
    Mutant(
        name="a vote of an earlier election counted",
        file="core/election.py",
        old="""\
        and peer.record.vote.round == register.round
""",
        new="""\
        and peer.record.vote.round > 0
""",
        why="Its voter has gone on taking WAL, and confirmed it.",
        caught_by=ELECTIONS + "test_a_vote_is_of_one_election",
        says="S1: ",
    ),
    Mutant(
        name="vote from a directory that is being rewound",
        file="core/standby.py",
        old="case PgState.STOPPED if state.durable.stage is Stage.NONE:",
        new="case PgState.STOPPED:",
        why="A server is started on what is half one log, half another.",
        caught_by=ELECTIONS + "test_a_data_directory_that_is_being_remade_is_not_started_to_vote",
        says="it was started",
    ),
    Mutant(
        name="a node that was made anew keeps its incarnation",
        file="core/plan.py",
        old='incarnation=Incarnation(durable.incarnation.name, f"{base}.{count}"),',
        new="incarnation=durable.incarnation,",
        why="It counts for what its old data had.",
        caught_by=FAILOVER + "test_primary_loses_its_data_directory",
        says="'n11.1'",
    ),
    Mutant(
        name="a member re-created under its name counted",
        file="core/types.py",
        old="return sum(m in holders for m in self.members)",
        new="""\
names = {h.name for h in holders}
        return sum(m.name in names for m in self.members)""",
        why="Restored from a backup, it has not what the member acknowledged.",
        caught_by=ELECTIONS + "test_one_made_anew_from_a_backup_counts_for_nothing",
        says="S1: n2 opens",
    ),
    Mutant(
        name="a writer re-created under its name counted",
        file="core/types.py",
        old="if self.writer in holders:",
        new="if self.writer.name in {h.name for h in holders}:",
        why="Restored from a backup, it has not what the writer acknowledged.",
        caught_by=ELECTIONS + "test_one_made_anew_from_a_backup_counts_for_nothing",
        says="S1: n1 opens",
    ),
    Mutant(
        name="one that leaves stays a candidate",
        file="core/step.py",
        old="            renew_eligibility(state)\n",
        new="",
        why="It is appointed when its machine is gone, and nobody can be without it.",
        caught_by=ELECTIONS + "test_one_that_leaves_is_not_appointed_for_what_it_voted",
        says="n3 has appointed one that is gone",
    ),
    Mutant(
        name="a paused member suspects",
        file="core/standby.py",
        old="if state.leaving is not Leaving.NO or state.settings.paused:",
        new="if state.leaving is not Leaving.NO:",
        why="A primary that somebody stopped by hand is succeeded though the cluster is paused.",
        caught_by=PAUSE + "test_a_dead_primary_is_not_succeeded_until_the_end_of_the_pause",
        says="serves('n2')",
    ),
    Mutant(
        name="a copy begun while commits wait for the member",
        file="core/reinitialize.py",
        old="if still_counted(state, register, state.reinitialize_since):",
        new="if False:",
        why="Commits wait, and an election lacks it, though the others suffice.",
        caught_by=REINITIALIZE + "test_it_is_cloned_and_leaves_the_rule_first",
        says="it stopped before it was taken out of the rule",
    ),
    Mutant(
        name="a restart that asks to be succeeded",
        file="core/primary.py",
        old="if not at_once and waited < SUCCESSION_WAIT and",
        new="if waited < SUCCESSION_WAIT and",
        why="A restart becomes a failover.",
        caught_by=RESTART + "test_a_primary_stays_primary",
        says="suspect",
    ),
    Mutant(
        name="a seal lifted on a timeout",
        file="core/standby.py",
        old="""\
        seal_and_vote(state, register)
        try_appoint(state, register)
        return
    state.vote = None""",
        new="""\
        seal_and_vote(state, register)
        try_appoint(state, register)
        if state.vote is not None and state.now - state.voted_at > 5.0:
            _follow(state, register)
        return
    state.vote = None""",
        why="Its vote still counts, and it confirms what came after.",
        caught_by=ELECTIONS + "test_a_vote_is_kept_as_long_as_its_election",
        says="S4: ",
    ),
    Mutant(
        name="vote after a requested promotion without stopping",
        file="core/standby.py",
        old="""\
            state.why = "an election has begun: stopping, since a promotion cannot be recalled"
            do(state, Stop(immediate=True), preempt=True)""",
        new="""\
            state.why = "an election has begun: sealing"
            do(state, Seal(register.round), preempt=True)""",
        why="The promotion cannot be recalled: its server goes on to write.",
        caught_by=PROMOTIONS + "test_a_server_that_may_still_promote_is_stopped_before_it_votes",
        says="is about to promote",
    ),
    Mutant(
        name="a requested promotion forgotten by a new agent",
        file="core/primary.py",
        old="state.durable = replace(durable, promoting=register.term)",
        new="pass",
        why="It votes, or follows, with a server that is about to promote.",
        caught_by=PROMOTIONS + "test_a_server_that_may_still_promote_is_stopped_before_it_votes",
        says="is about to promote",
    ),
    Mutant(
        name="an overtaken promotion left to complete",
        file="core/standby.py",
        old="""\
            state.why = "a promotion that was overtaken may still complete: stopping"
            do(state, Stop(immediate=True), preempt=True)""",
        new="            _follow(state, register)",
        why="A standby of the next term becomes a primary of the last.",
        caught_by=PROMOTIONS + "test_a_server_that_may_still_promote_follows_nobody",
        says="not within 1.0 s: it is stopped",
    ),
    Mutant(
        name="one of two elects on silence alone",
        file="core/election.py",
        old="""\
if not positive and len(holders & nodes) * 2 <= len(nodes) and not _beat_stopped(state):""",
        new="if False:",
        why="It may be deaf itself; the primary's beat in the DCS goes on.",
        caught_by=ELECTIONS + "test_of_two_nodes_one_is_not_deaf_alone",
        says="[election]",
    ),
    Mutant(
        name="an office taken back without end",
        file="core/primary.py",
        old="return state.reclaim_armed or state.reclaim_round == register.round",
        new="return True",
        why="A primary that gets no acknowledgements never gives way.",
        caught_by=ELECTIONS + "test_an_office_is_taken_back_once_per_acknowledged_barrier",
        says="round 2 term 1",
    ),
    Mutant(
        name="an office taken back without a fresh answer",
        file="core/primary.py",
        old="elif postgres.answered_at > state.register_seen_at:",
        new="else:",
        why="Its server may be frozen since.",
        caught_by=ELECTIONS + "test_an_office_is_not_taken_back_without_an_answer_of_its_server",
        says="assert not True",
    ),
    Mutant(
        name="a handover to one that has not everything",
        file="core/switchover.py",
        old="if heir.replay_lsn > postgres.checkpoint_lsn:",
        new="if heir.replay_lsn > 0:",
        why="The successor opens without what was acknowledged last.",
        caught_by=PROMOTIONS + "test_a_handover_is_only_to_one_that_has_it_all",
        says="S1: ",
    ),
    # The register
    Mutant(
        name="a lost CAS settled by a read",
        file="core/primary.py",
        old="""\
    if state.written_seq != register.seq:
        state.why = "confirming in the DCS that it is still the primary before it starts"
        write(state, replace(register, seq=register.seq + 1))
        return
""",
        new="""\
    if state.read_at < state.started_at:
        state.why = "reading in the DCS that it is still the primary before it starts"
        return
""",
        why="It can still land, when the old primary acknowledges again.",
        caught_by=REGISTER
        + "test_a_handover_under_way_is_overtaken_before_the_old_primary_starts_again",
        says="n2 is appointed",
    ),
    Mutant(
        name="an older register accepted",
        file="core/seen.py",
        old="""\
            _lost(state, register.seq)
""",
        new="""\
            state.durable = replace(state.durable, register=register)
""",
        why="A DCS restored from a backup undoes an appointment.",
        caught_by=DCS_STORIES + "test_older_dcs_is_written_again_by_the_newest_primary",
        says="S7: ",
    ),
    Mutant(
        name="a lost register written again during an election",
        file="core/amnesia.py",
        old="""\
    if register.electing:
        return (
            "an election was""",
        new="""\
    if not register:
        return (
            "an election was""",
        why="Somebody may have been appointed by it.",
        caught_by=AMNESIA + "test_not_while_it_may_have_been_succeeded",
        says="assert not [WriteRegister",
    ),
    Mutant(
        name="a lost register written again during a handover",
        file="core/amnesia.py",
        old="if state.durable.handing == register.seq:",
        new="if state.durable.handing < 0:",
        why="The successor may have been appointed by it.",
        caught_by=AMNESIA + "test_not_while_it_may_have_been_succeeded",
        says="assert not [WriteRegister",
    ),
    Mutant(
        name="a lost register written again though copies differ",
        file="core/amnesia.py",
        old="if record is None or not record.dcs_lost or record.register != register:",
        new="if record is None or not record.dcs_lost:",
        why="A newer copy may show a successor, or a rule.",
        caught_by=AMNESIA + "test_who_holds_another_copy_does_not_agree",
        says="assert not [WriteRegister",
    ),
    Mutant(
        name="a lost register written again on words from before",
        file="core/amnesia.py",
        old=">= state.lost_beat:",
        new=">= 0:",
        why="Since then they may have elected.",
        caught_by=AMNESIA + "test_who_spoke_before_the_loss_does_not_agree",
        says="assert not [WriteRegister",
    ),
    Mutant(
        name="a lost register written again with the next numbers",
        file="core/amnesia.py",
        old="fresh = max(known + JUMP, int(state.epoch * 1000))",
        new="fresh = register.seq + 1",
        why="Votes, and copies, of what was lost are taken for its.",
        caught_by=AMNESIA + "test_it_is_written_again_newer_than_whatever_was_seen",
        says="landed unheard",
    ),
    # Authority
    Mutant(
        name="a sealed member grants",
        file="core/lease.py",
        old="register is None or register.electing else",
        new="register is None else",
        why="Who has voted a successor in lets the old primary serve on.",
        caught_by=AUTHORITY + "test_who_has_sealed_grants_nothing",
        says="assert 2 == 0",
    ),
    Mutant(
        name="a grant of another term accepted",
        file="core/lease.py",
        old="if peer.granted_term == register.term:",
        new="if peer.granted_term:",
        why="It was given to somebody else.",
        caught_by=AUTHORITY + "test_a_grant_is_of_a_term",
        says="-inf",
    ),
    Mutant(
        name="grants under an older rule counted",
        file="core/lease.py",
        old="""\
    rule = register.rule
""",
        new="""\
    rule = register.rules[0]
""",
        why="That it was dropped may have landed unheard: others can elect.",
        caught_by=DCS_STORIES + "test_grants_under_a_rule_that_was_dropped_unheard_do_not_count",
        says="S6: ",
    ),
    Mutant(
        name="a grant of a stranger counted",
        file="core/lease.py",
        old="peer.record is None or peer.record.incarnation != member:",
        new="peer.record is None:",
        why="It is no member of the rule, though it has a member's name.",
        caught_by=AUTHORITY + "test_a_stranger_grants_nothing",
        says="-inf",
    ),
    Mutant(
        name="one grant where two have to confirm",
        file="core/lease.py",
        old="return granted[rule.k - 1] if len(granted) >= rule.k else",
        new="return granted[0] if granted else",
        why="The others suffice to elect.",
        caught_by=AUTHORITY + "test_two_have_to_grant_where_two_have_to_confirm",
        says="-inf",
    ),
    Mutant(
        name="a grant counted from the reply",
        file="core/seen.py",
        old="max(peer.granted_at, sent), record.grant",
        new="state.now, record.grant",
        why="The answer may be old when it arrives.",
        caught_by=AUTHORITY + "test_a_grant_counts_from_when_it_was_asked",
        says="assert 18.0 == (10.0 + 5.0)",
    ),
    Mutant(
        name="a read counted from when it is handled",
        file="core/seen.py",
        old="""\
state.read_at = max(state.read_at, asked_at)
            state.register_lost = False""",
        new="""\
state.read_at = state.now
            state.register_lost = False""",
        why="The answer may be old when it arrives.",
        caught_by=AUTHORITY + "test_a_read_counts_from_when_it_was_asked",
        says="assert 18.0 == (11.0 + 5.0)",
    ),
    Mutant(
        name="authority that never ends",
        file="core/lease.py",
        old="return until is None or state.now < until",
        new="return True",
        why="A primary that is cut off serves stale reads without end.",
        caught_by=AUTHORITY + "test_who_has_no_authority_any_more_does_not_serve",
        says="assert not True",
    ),
    Mutant(
        name="serving without authority",
        file="core/publish.py",
        old="""\
        and has_authority(state)
""",
        new="",
        why="The same, where the guard is late.",
        caught_by=AUTHORITY + "test_who_has_no_authority_any_more_does_not_serve",
        says="assert not True",
    ),
    Mutant(
        name="older rules dropped before the guard has its deadline",
        file="core/primary.py",
        old="    elif len(register.rules) > 1 and rule.k and state.deadline_kept is None:",
        new="    elif False:",
        why="Others can be appointed, and nothing stops this server if its agent dies.",
        caught_by=AUTHORITY + "test_the_older_rules_are_dropped_when_the_guard_has_its_deadline",
        says="is None",
    ),
    Mutant(
        name="a superseded primary left to its deadline",
        file="core/standby.py",
        old="""\
            do(state, Stop(immediate=True), preempt=True)
        case PgState.STANDBY if state.durable.promoting:
            state.why = "a promotion""",
        new="""\
        case PgState.STANDBY if state.durable.promoting:
            state.why = "a promotion""",
        why="It serves stale reads for that long.",
        caught_by=PROMOTIONS
        + "test_a_primary_that_was_superseded_is_stopped_before_its_authority_ends",
        says="not within 3.0 s: n1 is stopped",
    ),
    # The entry point
    Mutant(
        name="gate opened before the barrier",
        file="core/primary.py",
        old="""\
    if state.applied != rule:
        state.why = f"applying""",
        new="""\
    if not state.opened:
        _open(state, register)
    if state.applied != rule:
        state.why = f"applying""",
        why="Clients see what a crash made visible, and what is lost later.",
        caught_by=PROMOTIONS + "test_what_a_crash_made_visible_is_not_shown_before_others_have_it",
        says="serves('n1')",
    ),
    Mutant(
        name="routing during an election",
        file="core/gate.py",
        old="    if newest.electing:",
        new="    if newest.round < 0:",
        why="The primary is about to be succeeded.",
        caught_by=GATE + "test_not_during_an_election",
        says="is None",
    ),
    Mutant(
        name="routing on a word of an earlier term",
        file="core/gate.py",
        old="if not primary.serving or not _current(primary, newest):",
        new="if not primary.serving:",
        why="It was primary before, and has not begun again.",
        caught_by=GATE + "test_not_on_the_word_that_a_primary_gave_in_an_earlier_term_of_its_own",
        says="is None",
    ),
    # The agent: what is on disk, and when
    Mutant(
        name="un-fsynced seal",
        file="agent/store.py",
        old="""\
            os.fsync(fd) if new else os.fdatasync(fd)
""",
        new="",
        why="After a power failure the member does not know that it has voted.",
        caught_by="tests/agent/test_store_syncs.py::test_a_save_is_on_disk_when_it_returns",
        says="was not synced after its write",
    ),
    Mutant(
        name="a promise told before it is on disk",
        file="agent/loop.py",
        old="""\
            if self.state.durable is not self._saved:
                self._persist()
            for effect in effects:
                await self._perform(effect)
""",
        new="""\
            for effect in effects:
                await self._perform(effect)
            if self.state.durable is not self._saved:
                self._persist()
""",
        why="After a crash the member does not know what it has promised.",
        caught_by=LOOP + "test_what_the_others_are_told_is_on_disk",
        says="Left contains one more item",
    ),
    Mutant(
        name="a promise that cannot be saved",
        file="agent/loop.py",
        old="""\
            raise Unavailable("disk", f"cannot save this member's state: {error}") from error""",
        new='            log.error("cannot save this member\'s state: %s", error)',
        why="The member goes on as if it were on disk.",
        caught_by=LOOP + "test_what_cannot_be_saved_is_not_acted_on",
        says="it goes on",
    ),
    Mutant(
        name="authority counted from the reply to a read",
        file="agent/loop.py",
        old="""\
        asked_at = self._clock.now()
        values = await self._dcs.read(self._keys.prefix)
""",
        new="""\
        values = await self._dcs.read(self._keys.prefix)
        asked_at = self._clock.now()
""",
        why="The answer may be old when it arrives.",
        caught_by=LOOP + "test_a_read_counts_from_when_it_was_asked",
        says="assert 103.0 == 100.0",
    ),
    Mutant(
        name="authority counted from the reply to a write",
        file="agent/loop.py",
        old="self.post(CasAnswer(effect, True, asked_at=asked_at))",
        new="self.post(CasAnswer(effect, True, asked_at=self._clock.now()))",
        why="The answer may be old when it arrives.",
        caught_by=LOOP + "test_a_write_counts_from_when_it_was_asked",
        says="assert 106.0 == 103.0",
    ),
    # PostgreSQL and its guard
    Mutant(
        name="seal answered before the walreceiver is gone",
        file="adapters/postgres/server.py",
        old="""\
                if await sql.walreceiver_gone(conn):
                    if not""",
        new="""\
                if True:
                    if not""",
        why="WAL arrives, and is confirmed, after the vote.",
        caught_by=REAL + "test_a_seal_waits_for_a_walreceiver_that_does_not_go",
        says="its walreceiver is there",
    ),
    Mutant(
        name="restore_command left on",
        file="adapters/postgres/render.py",
        old="""\
            _setting("restore_command", role.restore_command),
""",
        new="",
        why="The operator's archive feeds a sealed member.",
        caught_by=REAL + "test_a_sealed_standby_restores_nothing_from_the_operators_archive",
        says="cp /nowhere",
    ),
    Mutant(
        name="barrier on an old connection",
        file="adapters/postgres/server.py",
        old="""\
        result = await sql.barrier(
            self._server, self.config.superuser, names=names, timeout=BARRIER_TIMEOUT
        )
""",
        new="""\
        async with self._observer.connection() as conn:
            result = await sql._barrier(conn, names, [], BARRIER_TIMEOUT)
""",
        why="It was made with the operator's settings, under which no commit waits.",
        caught_by=REAL + "test_a_barrier_waits_also_where_the_operators_sessions_do_not",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="deadline that ends the postmaster only",
        file="adapters/postgres/guard.py",
        old="""\
        kill_descendants()
        self.sweep_at""",
        new="""\
        if self.postmaster:
            os.kill(self.postmaster, signal.SIGKILL)
        self.sweep_at""",
        why="An orphan backend goes on committing.",
        caught_by=GUARD + "test_nothing_is_written_after_the_deadline",
        says="assert",
    ),
    Mutant(
        name="guard that does not own orphans",
        file="adapters/postgres/guard.py",
        old="""\
    prctl(PR_SET_CHILD_SUBREAPER, 1)
""",
        new="",
        why="A dead postmaster leaves backends that nobody knows of.",
        caught_by=GUARD + "test_killed_postmaster_takes_its_backends_along",
        says="== set()",
    ),
    # By a reader who had not seen the tests
    Mutant(
        name="only the first handover of a life remembered",
        file="core/switchover.py",
        old="if state.durable.handing != register.seq:",
        new="if not state.durable.handing:",
        why="A lost register is written again by one whose second handover landed unheard.",
        caught_by=READER + "test_the_second_handover_of_a_life_may_have_landed_unheard_too",
        says="S2: ",
    ),
    Mutant(
        name="the log's end looked up before recovery is idle",
        file="adapters/postgres/observe.py",
        old="""\
        if status.receive_lsn == 0:
            status = await sql.observe(conn, full=False)
        lsn =""",
        new="        lsn =",
        why="A vote says less than its log has, and one that has less than that is appointed.",
        caught_by="tests/conformance/test_postgres_log_end.py::"
        "test_what_recovery_reads_between_two_looks_is_in_the_vote",
        says="its vote says less",
    ),
    Mutant(
        name="mixture with the new k",
        file="core/durability.py",
        old="min(r.k for r in real), tuple(sorted(members))",
        new="rule.k, tuple(sorted(members))",
        why="While k rises, walsenders that still wait for fewer let commits through.",
        caught_by=RULES + "test_one_of_three_may_let_a_commit_through_while_two_are_to_confirm",
        says="serves('n2')",
    ),
    Mutant(
        name="a term that is on a loser's disk",
        file="core/election.py",
        old="max([newest, *(v.newest_history for v in cast.values())])",
        new="max(newest, vote.newest_history)",
        why="Two timelines with one number, and the longer one is not the newer one.",
        caught_by=READER
        + "test_a_number_on_the_disk_of_one_that_is_not_appointed_is_not_given_again",
        says="S1: ",
    ),
    Mutant(
        name="a turn counted from the newest suspicion",
        file="core/standby.py",
        old="if before is None or before.term != found.term:",
        new="if before is None or before != found:",
        why="Only the first in turn ever begins an election, and it may not reach the DCS.",
        caught_by=READER + "test_who_cannot_reach_the_dcs_leaves_its_turn_to_the_next",
        says="not within 5.0 s: n3 serves",
    ),
    Mutant(
        name="a vote that outlives its server",
        file="core/answers.py",
        old="""\
    state.vote, state.written_seq, state.deadline_kept, state.closed = None, -1, None, True""",
        new="    state.written_seq, state.deadline_kept, state.closed = -1, None, True",
        why="The server is not started again, and the election has no end.",
        caught_by=READER + "test_a_voter_whose_server_dies_votes_again",
        says="not within 10.0 s: n2 serves",
    ),
    Mutant(
        name="every rule asked when the register is lost",
        file="core/amnesia.py",
        old="if not register.rule.satisfied_by(absent):",
        new="if not all(rule.satisfied_by(absent) for rule in register.rules):",
        why="That the older ones were dropped may have landed unheard.",
        caught_by=DCS_STORIES + "test_a_standby_may_have_left_the_rule_unheard",
        says="S2: ",
    ),
    Mutant(
        name="saves numbered anew by each agent",
        file="agent/store.py",
        old="slot, (self._number, data) = max(",
        new="slot, (_, data) = max(",
        why="A new agent overwrites the newest state, and the next one loads that before it.",
        caught_by="tests/agent/test_store.py::test_the_newest_save_is_loaded",
        says="assert 4 == 7",
    ),
    Mutant(
        name="the newest grant where two have to grant",
        file="core/lease.py",
        old="""\
    granted.sort(reverse=True)
    return granted[rule.k - 1] if len(granted) >= rule.k else float("-inf")""",
        new="""\
    return max(granted) if len(granted) >= rule.k else float("-inf")""",
        why="One that has not heard of the successor lets the old primary serve on.",
        caught_by=AUTHORITY + "test_two_have_to_grant_where_two_have_to_confirm",
        says="assert 17.0 == (10.0 + 5.0)",
    ),
    Mutant(
        name="the minimum kept before anybody could clone",
        file="core/durability.py",
        old="if state.opened and left < state.settings.minimum_k:",
        new="if left < state.settings.minimum_k:",
        why="A successor whose only other member is lost never opens; who could join waits for it.",
        caught_by=READER + "test_a_successor_short_of_the_minimum_opens_for_who_has_to_rewind",
        says="not within 15.0 s: n2 serves",
    ),
    Mutant(
        name="a deadline that was told taken for confirmed",
        file="core/primary.py",
        old="rule.k and state.deadline_kept is None:",
        new="rule.k and state.deadline is None:",
        why="Others can be appointed, and nothing stops this server.",
        caught_by=READER + "test_nobody_succeeds_a_primary_whose_guard_does_not_hear_its_deadline",
        says="S6: ",
    ),
    Mutant(
        name="a lost register written again with its old round",
        file="core/amnesia.py",
        old="again = replace(register, seq=fresh, round=fresh, electing=False, why=why)",
        new="again = replace(register, seq=fresh, electing=False, why=why)",
        why="Votes of an election before the loss count in the next one.",
        caught_by=DCS_STORIES + "test_emptied_dcs_is_written_again",
        says="S7: ",
    ),
)
