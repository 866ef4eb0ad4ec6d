import re
from itertools import pairwise
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.core.ops import Address, Kind, Op, parse_route
from checkfree.models.chunks import Chunks
from checkfree.pipeline import (
    SCHEDULES,
    TWICE,
    Costs,
    DeadlockError,
    ScheduleError,
    check,
    forward_only,
    gpipe,
    key,
    makespan,
    needs,
    one_f_one_b,
    parse,
    peak_split,
    peak_stash,
    render,
    split_backwards,
    timeline,
    zb_h1,
    zb_h2,
    zbv,
)
from checkfree.pipeline.expected import EXPECTED, bubble
from checkfree.pipeline.routes import in_order, is_swapped, revisiting, swapped
from checkfree.report.schedule import draw_timeline

USUAL, UNIT = Costs(), Costs(forward=1, backward=1, embed=1, head=1)
HALVES = Costs(forward=1, backward=2, embed=0, head=0)  # F = B = W = 1, and ends that cost nothing
SPLIT = {"zb_h1": zb_h1, "zb_h2": zb_h2}
V_SHAPED = ("zbv", "v_half", "v_min")


def seats(num_body, num_replicas=1):
    return [Address(s, r) for s in range(num_body + 1) for r in range(num_replicas)]


def visited(routes, name):
    """As the routes of that schedule come to body seats: twice, if these have two chunks."""
    return revisiting(routes, TWICE.get(name, Chunks.WHOLE))


def duration(routes, costs=USUAL):
    return lambda _, op: costs.duration(op, routes[op.microbatch])


def in_time(schedule, routes, costs=USUAL):
    """When each op runs, by the costs that the schedule was made with."""
    split = split_backwards(schedule)

    def seconds(worker, op):
        return costs.duration(op, routes[op.microbatch], key(op) in split)

    return timeline(
        schedule,
        routes,
        lambda worker, op: 0.0 if op.kind is Kind.REDUCE else seconds(worker, op),
        lambda sender, receiver: costs.transfer,
    )


def length(spans):
    return max(end for _, end in spans.values())


def at_once(sender, receiver):
    return 0.0


@st.composite
def pipelines(draw):
    """Routes over stages with different numbers of living replicas; some of the ends swapped."""
    num_body = draw(st.integers(1, 10))
    living = [Address(s, r) for s in range(num_body + 1) for r in range(draw(st.integers(1, 3)))]
    routes = in_order(living, draw(st.integers(1, 20)))
    if num_body < 4:
        return routes
    return swapped(routes, draw(st.sampled_from([0, 0.1, 0.3, 0.5, 0.9, 1])))


def crosses(routes):
    return len({tuple(seat.stage for seat in route) for route in routes}) > 1


costs = st.builds(Costs, *[st.sampled_from([0, 0.1, 0.3, 1, 2.5])] * 5)


# What comes out


TEXTBOOK = """\
0.0 | F0@0 F1@0 F2@0 F3@0 .    .    .    B0@0 F4@0 B1@0 F5@0 B2@0 F6@0 B3@0 F7@0 B4@0 .    B5@0 .    B6@0 .    B7@0 R
1.0 | .    F0@1 F1@1 F2@1 .    .    B0@1 F3@1 B1@1 F4@1 B2@1 F5@1 B3@1 F6@1 B4@1 F7@1 B5@1 .    B6@1 .    B7@1 R
2.0 | .    .    F0@2 F1@2 .    B0@2 F2@2 B1@2 F3@2 B2@2 F4@2 B3@2 F5@2 B4@2 F6@2 B5@2 F7@2 B6@2 .    B7@2 R
3.0 | .    .    .    F0@3 B0@3 F1@3 B1@3 F2@3 B2@3 F3@3 B3@3 F4@3 B4@3 F5@3 B5@3 F6@3 B6@3 F7@3 B7@3 R"""  # noqa: E501


def test_1f1b_of_a_plain_chain_is_the_textbook_s():
    chain = parse_route("0.0 > 1.0 > 2.0 > 3.0")
    assert render(one_f_one_b([chain] * 8, Costs(embed=1, head=1))) == TEXTBOOK


def test_1f1b_of_four_body_stages():
    picture = """
        0.0 | F0@0 F1@0 F2@0 F3@0 F4@0 F5@0 F0@5 B0@5 F1@5 B1@5 F2@5 B2@5 F3@5 B3@5 B0@0 F6@0 F4@5 B4@5 B1@0 F7@0 F5@5 B5@5 B2@0 F6@5 B6@5 B3@0 F7@5 B7@5 B4@0 B5@0 B6@0 B7@0 R
        1.0 | F0@1 F1@1 F2@1 F3@1 F4@1 B0@1 F5@1 B1@1 F6@1 B2@1 F7@1 B3@1 B4@1 B5@1 B6@1 B7@1 R
        2.0 | F0@2 F1@2 F2@2 F3@2 B0@2 F4@2 B1@2 F5@2 B2@2 F6@2 B3@2 F7@2 B4@2 B5@2 B6@2 B7@2 R
        3.0 | F0@3 F1@3 F2@3 B0@3 F3@3 B1@3 F4@3 B2@3 F5@3 B3@3 F6@3 B4@3 F7@3 B5@3 B6@3 B7@3 R
        4.0 | F0@4 F1@4 B0@4 F2@4 B1@4 F3@4 B2@4 F4@4 B3@4 F5@4 B4@4 F6@4 B5@4 F7@4 B6@4 B7@4 R"""  # noqa: E501
    assert one_f_one_b(in_order(seats(4), 8)) == parse(picture)


def test_gpipe_turns_round_after_its_last_forward():
    assert render(gpipe(in_order(seats(2), 3))) == dedent("""\
        0.0 | F0@0 F1@0 F2@0 F0@3 F1@3 F2@3 B0@3 B1@3 B2@3 B0@0 B1@0 B2@0 R
        1.0 | .    F0@1 F1@1 F2@1 .    .    .    .    B0@1 B1@1 B2@1 R
        2.0 | .    .    F0@2 F1@2 F2@2 .    .    B0@2 B1@2 B2@2 R""")


def test_swapped_microbatches_pass_each_other():
    routes = swapped(in_order(seats(4), 2))
    assert render(one_f_one_b(routes, UNIT)) == dedent("""\
        0.0 | F0@0 F1@0 .    .    .    F0@5 B0@5 F1@5 B1@5 .    .    B0@0 .    B1@0 R
        1.0 | .    F0@1 .    .    F1@2 .    .    .    .    .    B0@1 B1@2 R
        2.0 | .    .    F0@2 F1@1 .    .    .    .    .    B0@2 .    .    B1@1 R
        3.0 | .    .    .    F0@3 .    .    F1@4 .    B0@3 B1@4 R
        4.0 | .    .    .    .    F0@4 F1@3 .    B0@4 .    .    B1@3 R""")


def test_forward_only_has_neither_backwards_nor_reduction():
    routes = in_order(seats(2), 3)
    assert render(forward_only(routes)) == dedent("""\
        0.0 | F0@0 F1@0 F2@0 F0@3 F1@3 F2@3
        1.0 | .    F0@1 F1@1 F2@1
        2.0 | .    .    F0@2 F1@2 F2@2""")
    check(forward_only(routes), routes, backward=False)


def test_a_worker_does_not_wait_for_what_is_on_its_way():
    routes = in_order(seats(1), 3)
    near = gpipe(routes, UNIT)[Address(0)]
    far = gpipe(routes, Costs(embed=1, head=1, transfer=5))[Address(0)]
    assert [str(op) for op in near[:4]] == ["F0@0", "F1@0", "F0@2", "F1@2"]
    assert [str(op) for op in far[:4]] == ["F0@0", "F1@0", "F2@0", "F0@2"]


# What always holds


@given(pipelines(), st.sampled_from(sorted(SCHEDULES)), costs)
@settings(deadline=None)
def test_every_schedule_covers_its_routes_and_ends(routes, name, costs):
    routes = visited(routes, name)
    schedule = SCHEDULES[name](routes, costs)
    check(schedule, routes)
    assert {ops[-1] for ops in schedule.values()} == {Op(Kind.REDUCE)}
    assert schedule == SCHEDULES[name](list(routes), costs)


@given(pipelines(), costs)
@settings(deadline=None)
def test_1f1b_holds_no_more_than_a_route_is_long(routes, costs):
    length, stash = len(routes[0]), peak_stash(one_f_one_b(routes, costs))
    crossing = crosses(routes)
    for worker, held in stash.items():
        assert held <= (length + 3 * crossing if worker.stage == 0 else length - 1 + 2 * crossing)


@given(pipelines())
@settings(deadline=None)
def test_gpipe_holds_every_microbatch_that_comes_by(routes):
    visits = {seat: sum(seat in route for route in routes) for route in routes for seat in route}
    assert peak_stash(gpipe(routes)) == visits


@given(st.integers(1, 10), st.integers(1, 24), st.integers(1, 3))
@settings(deadline=None)
def test_1f1b_takes_no_longer_than_gpipe(num_body, num_microbatches, num_replicas):
    routes = in_order(seats(num_body, num_replicas), num_microbatches)
    ours, gpipes = (
        makespan(make(routes), routes, duration(routes), at_once) for make in (one_f_one_b, gpipe)
    )
    assert ours <= gpipes + 1e-9


@given(pipelines())
@settings(deadline=None)
def test_validation_needs_forwards_alone(routes):
    check(forward_only(routes), routes, backward=False)


@given(pipelines(), st.sampled_from(sorted(SCHEDULES)))
@settings(deadline=None)
def test_what_is_rendered_can_be_parsed(routes, name):
    schedule = SCHEDULES[name](visited(routes, name))
    assert parse(render(schedule)) == schedule


@given(pipelines(), costs)
@settings(deadline=None)
def test_on_a_timeline_ops_follow_what_they_need_and_never_overlap(routes, costs):
    schedule = one_f_one_b(routes, costs)
    spans = timeline(schedule, routes, duration(routes, costs), lambda *_: 0.25)
    for worker, ops in schedule.items():
        for before, after in pairwise(ops):
            assert spans[worker, before][1] <= spans[worker, after][0]
        for op in ops:
            for need in needs(op, routes):
                sender = routes[need.microbatch][need.hop]
                travel = 0.25 * (sender != worker)
                assert spans[sender, need][1] + travel <= spans[worker, op][0]


# Split backwards


def test_zb_h1_of_four_body_stages():
    """As in figure 2 of arXiv 2401.10241, the first stages compute the gradient of weights between
    the others from the first one on, the last ones towards the end."""
    picture = """
        1.0 | F0@1 F1@1 F2@1 F3@1 F4@1 B0@1 W0@1 F5@1 B1@1 W1@1 B2@1 W2@1 B3@1 B4@1 W3@1 W4@1 B5@1 W5@1 R
        2.0 | F0@2 F1@2 F2@2 F3@2 B0@2 F4@2 B1@2 W0@2 F5@2 B2@2 W1@2 B3@2 B4@2 W2@2 W3@2 B5@2 W4@2 W5@2 R
        3.0 | F0@3 F1@3 F2@3 B0@3 F3@3 B1@3 F4@3 B2@3 W0@3 F5@3 B3@3 B4@3 W1@3 W2@3 B5@3 W3@3 W4@3 W5@3 R
        4.0 | F0@4 F1@4 B0@4 F2@4 B1@4 F3@4 B2@4 F4@4 B3@4 B4@4 W0@4 F5@4 W1@4 B5@4 W2@4 W3@4 W4@4 W5@4 R"""  # noqa: E501
    made = zb_h1(in_order(seats(4), 6), HALVES)
    assert {worker: ops for worker, ops in made.items() if worker.stage} == parse(picture)


@given(pipelines(), st.sampled_from((*SPLIT, *V_SHAPED)), costs)
@settings(deadline=None)
def test_every_backward_but_the_embeddings_is_split(routes, name, costs):
    routes = visited(routes, name)
    schedule = SCHEDULES[name](routes, costs)
    halves = {
        (op.microbatch, op.hop)
        for ops in schedule.values()
        for op in ops
        if op.kind is Kind.WEIGHTS
    }
    assert halves == {(m, hop) for m, route in enumerate(routes) for hop in range(1, len(route))}
    assert split_backwards(schedule) == {key(Op(Kind.BACKWARD, *half)) for half in halves}


@given(pipelines(), st.sampled_from(sorted(SPLIT)), costs)
@settings(deadline=None)
def test_a_stash_counts_until_the_weights_have_their_gradient(routes, name, costs):
    """And has 1F1B's bound with ZB-H1, less than twice that with ZB-H2."""
    hops, crossing = len(routes[0]), crosses(routes)
    deep = 2 if name == "zb_h2" else 1
    schedule = SCHEDULES[name](routes, costs)
    for worker, held in peak_stash(schedule).items():
        most = hops + 3 * crossing if worker.stage == 0 else hops - 1 + 2 * crossing
        assert held <= most if deep == 1 else held <= 2 * most - 1
        assert held <= EXPECTED[name].stash(hops) + 3 * crossing
    check(schedule, routes, stash=max(peak_stash(schedule).values()))


@pytest.mark.parametrize("name", sorted({*EXPECTED} - {"v_half", "v_min"}))
@pytest.mark.parametrize("num_body", [2, 3, 4, 7, 16, 64])
@pytest.mark.parametrize("more", [0, 1, 40])
def test_bubbles_are_those_of_the_papers(name, num_body, more):
    expected = EXPECTED[name]
    if name == "interleaved":
        more -= more % num_body  # its microbatches come in groups of as many as there are stages
    routes = visited(in_order(seats(num_body), expected.many(num_body) + more), name)
    schedule = SCHEDULES[name](routes, HALVES)
    found = bubble(in_time(schedule, routes, HALVES))
    assert found == pytest.approx(expected.bubble(num_body, HALVES), rel=0.02, abs=1e-9)


@pytest.mark.parametrize("name", ["v_half", "v_min"])
@pytest.mark.parametrize("num_body", [2, 3, 4, 5, 8, 16, 32])
@pytest.mark.parametrize("more", [0, 1, 40])
def test_v_schedules_idle_no_longer_than_their_paper_has_it(name, num_body, more):
    """Which rounds: it has both bubbles as about so long."""
    expected = EXPECTED[name]
    routes = visited(in_order(seats(num_body), expected.many(num_body) + more), name)
    found = bubble(in_time(SCHEDULES[name](routes, HALVES), routes, HALVES))
    assert found <= 1.02 * expected.bubble(num_body, HALVES)


@given(pipelines(), st.sampled_from(sorted(TWICE)), costs)
@settings(deadline=None)
def test_a_seat_of_two_chunks_holds_no_more_than_its_paper_has_it(routes, name, costs):
    bodies, crossing = len(routes[0]) - 2, crosses(routes)
    schedule = SCHEDULES[name](visited(routes, name), costs)
    for worker, held in peak_stash(schedule).items():
        if worker.stage:
            assert held <= EXPECTED[name].stash(bodies + 2) + 3 * crossing


def test_memory_of_v_schedules_is_that_share_of_1f1b_s():
    routes = in_order(seats(16), 64)
    held = {
        name: peak_stash(SCHEDULES[name](visited(routes, name), HALVES))[Address(1)]
        for name in ("1f1b", *V_SHAPED)
    }
    whole = held.pop("1f1b")  # each of these microbatches as large as two of one chunk
    assert held == {"zbv": 33, "v_half": 19, "v_min": 12} and whole == 17


def test_zbv_of_two_body_stages():
    """A microbatch comes to the first stage at hops 1 and 4, to the second at 2 and 3 in turn."""
    picture = """
        1.0 | F0@1 F1@1 F2@1 F0@4 B0@4 F1@4 W0@4 B1@4 B0@1 W1@4 F3@1 F2@4 W0@1 B2@4 B1@1 F3@4 W2@4 B3@4 B2@1 W1@1 B3@1 W3@4 W2@1 W3@1 R
        2.0 | F0@2 F0@3 F1@2 F1@3 B0@3 B0@2 F2@2 F2@3 B1@3 B1@2 W0@3 F3@2 W0@2 F3@3 B2@3 B2@2 W1@3 B3@3 B3@2 W1@2 W2@3 W2@2 W3@3 W3@2 R"""  # noqa: E501
    made = zbv(visited(in_order(seats(2), 4), "zbv"), HALVES)
    assert {worker: ops for worker, ops in made.items() if worker.stage} == parse(picture)


def test_a_seat_of_two_chunks_takes_routes_that_come_to_it_twice():
    with pytest.raises(ValueError, match="two chunks, which a route visits twice"):
        zbv(in_order(seats(2), 2))


@pytest.mark.parametrize("num_body", [2, 4, 7, 16])
@pytest.mark.parametrize("weights", [0.2, 0.3, 0.4, 0.45])
def test_bubbles_are_those_of_the_papers_where_halves_differ(num_body, weights):
    """A gradient of weights that a backward would wait for is put off."""
    unequal = Costs(embed=0, head=0, weights=weights)
    routes = in_order(seats(num_body), 3 * num_body + 2)
    found = bubble(in_time(zb_h1(routes, unequal), routes, unequal))
    assert found == pytest.approx(EXPECTED["zb_h1"].bubble(num_body, unequal))


@given(pipelines(), st.sampled_from(sorted(SPLIT)), costs)
@settings(deadline=None)
def test_to_look_ahead_never_takes_longer(routes, name, costs):
    made = SCHEDULES[name](routes, costs)
    check(made, routes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("checkfree.pipeline.make.SHARES", (0.0,))
        greedy = SCHEDULES[name](routes, costs)
    assert length(in_time(made, routes, costs)) <= length(in_time(greedy, routes, costs)) + 1e-3


@pytest.mark.parametrize("name", sorted(SPLIT))
@pytest.mark.parametrize("num_body", [2, 4, 16])
def test_split_backwards_leave_no_more_than_the_way_to_the_last_stage(name, num_body):
    """It can't begin before a forward has come by all others, and then it never idles."""
    routes = in_order(seats(num_body), 2 * num_body + 1)
    spans = in_time(SCHEDULES[name](routes, HALVES), routes, HALVES)
    assert length(spans) == 3 * len(routes) + num_body - 1


@given(st.integers(1, 10), st.integers(1, 24), st.integers(1, 3))
@settings(deadline=None)
def test_split_backwards_take_no_longer(num_body, num_microbatches, num_replicas):
    routes = in_order(seats(num_body, num_replicas), num_microbatches)
    for some in (USUAL, Costs(transfer=0.5)):
        plain, first, second = (
            length(in_time(make(routes, some), routes, some))
            for make in (one_f_one_b, zb_h1, zb_h2)
        )
        assert second - 1e-9 <= first <= plain + 1e-9


def test_more_in_flight_hides_the_way_between_workers():
    far = Costs(transfer=0.5)
    routes = in_order(seats(8), 32)
    h1, h2 = (length(in_time(make(routes, far), routes, far)) for make in (zb_h1, zb_h2))
    assert h2 < 0.9 * h1


@pytest.mark.parametrize(
    ("row", "held", "halves"),
    [
        ("F0@1 B0@1 F1@1 B1@1 R", 1, 0),
        ("F0@1 B0@1 W0@1 F1@1 B1@1 W1@1 R", 1, 1),
        ("F0@1 B0@1 F1@1 W0@1 B1@1 W1@1 R", 2, 1),
        ("F0@1 B0@1 F1@1 B1@1 W0@1 W1@1 R", 2, 2),
        ("F0@1 B0@1 F1@1 B1@1 W0@1 R", 2, 1),
        ("F0@0 F0@2 B0@2 B0@0 F1@0 W0@2 R", 2, 1),
    ],
)
def test_what_is_held_between_halves(row, held, halves):
    schedule = parse(f"1.0 | {row}")
    assert peak_stash(schedule) == {Address(1): held}
    assert peak_split(schedule) == {Address(1): halves}


# What check refuses

ROUTES = in_order(seats(2), 2)
GOOD = """
    0.0 | F0@0 F1@0 F0@3 B0@3 F1@3 B1@3 B0@0 B1@0 R
    1.0 | F0@1 F1@1 B0@1 B1@1 R
    2.0 | F0@2 B0@2 F1@2 B1@2 R
"""


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [
        ("F0@2 B0@2", "F0@2", "B0@2 is missing on 2.0\n  2.0 | ... F1@2 B1@2 R [ ]"),
        ("F1@1 B0@1", "F1@1 F1@1 B0@1", "F1@1 stands on 1.0 twice\n  1.0 | F0@1 F1@1 [F1@1] B0@1"),
        ("F0@2 B0@2", "F0@2 F1@1 B0@2", "F1@1 stands on 2.0, but hop 1 of route 1 is 1.0"),
        ("F0@2 B0@2", "B0@2 F0@2", "B0@2 comes before F0@2 of the same worker\n  2.0 | [B0@2]"),
        ("F0@2 B0@2", "F0@2 B2@2", "B2@2 there is no route 2"),
        ("F0@2 B0@2", "F0@2 B0@4", "B0@4 route 0 has no such hop"),
        ("B1@2 R", "B1@2", "R is missing on 2.0"),
        ("B1@2 R", "R B1@2", "R must be the worker's last op"),
        ("F0@1 F1@1", "R0@2 F0@1 F1@1", "R0@2 comes before F0@1 of the same worker"),
        ("F0@1 F1@1", "F0@1 R0@1 F1@1", "R0@1 stands on 1.0, but hop 0 of route 0 is 0.0"),
        ("F0@1 F1@1", "F0@1 R0@2 R0@2 F1@1", "R0@2 stands on 1.0 twice"),
        ("F0@1 F1@1", "F0@1 R0@0 F1@1", "R0@0 route 0 has no such hop"),
        (
            "F0@2 B0@2",
            "F0@2 W0@2 B0@2",
            "W0@2 comes before B0@2 of the same worker\n  2.0 | F0@2 [",
        ),
        ("F0@2 B0@2", "F0@2 B0@2 W0@2 W0@2", "W0@2 stands on 2.0 twice"),
        ("F0@2 B0@2", "F0@2 B0@2 W0@1", "W0@1 stands on 2.0, but hop 1 of route 0 is 1.0"),
        ("B1@2 R", "B1@2 R W1@2", "R must be the worker's last op"),
        ("F0@2 B0@2", "F0@2 W0@2", "W0@2 comes before B0@2 of the same worker"),
    ],
)
def test_check_points_at_the_op_to_blame(right, wrong, why):
    check(parse(GOOD), ROUTES)
    assert right in GOOD
    with pytest.raises(ScheduleError, match=re.escape(why)):
        check(parse(GOOD.replace(right, wrong)), ROUTES)


def test_a_missing_worker_is_missing_its_ops():
    schedule = {w: ops for w, ops in parse(GOOD).items() if w.stage != 2}
    with pytest.raises(ScheduleError, match=r"F0@2 is missing on 2\.0\n  2\.0 \| \[ \]"):
        check(schedule, ROUTES)


def test_a_deadlock_shows_what_each_worker_waits_for():
    crossed = GOOD.replace("B0@1 B1@1", "B1@1 B0@1").replace("B1@3 B0@0", "B0@0 B1@3")
    with pytest.raises(DeadlockError) as raised:
        check(parse(crossed), ROUTES)
    assert str(raised.value) == dedent("""\
        deadlock: no worker can run its next op (10 of 19 ops ran)
          0.0 | ... F0@3 B0@3 F1@3 [B0@0] B1@3 B1@0 R   waits for B0@1
          1.0 | F0@1 F1@1 [B1@1] B0@1 R   waits for B1@2
          2.0 | F0@2 B0@2 F1@2 [B1@2] R   waits for B1@3""")


def test_a_large_deadlock_is_cut_short():
    routes = in_order(seats(30), 40)
    schedule = dict(gpipe(routes))
    forward, *others = schedule[Address(8)]
    others.remove(backward := Op(Kind.BACKWARD, 0, 8))
    schedule[Address(8)] = (forward, backward, *others)
    with pytest.raises(DeadlockError) as raised:
        check(schedule, routes)
    lines = str(raised.value).splitlines()
    assert lines[-1] == "  ... and 19 more workers"
    assert len(lines) == 14 and max(map(len, lines)) < 100


def test_stash_has_a_bound():
    check(parse(GOOD), ROUTES, stash=2)
    with pytest.raises(ScheduleError, match=r"F1@0 makes 0\.0 hold 2 microbatches, and at most 1"):
        check(parse(GOOD), ROUTES, stash=1)


def test_shadows_stand_after_the_forward_they_follow_on():
    shadowed = GOOD.replace("F0@1 F1@1", "F0@1 R0@2 F1@1 R1@2").replace("F1@0", "R0@1 F1@0 R1@1")
    check(parse(shadowed), ROUTES, stash=2)


def test_a_reduction_alone_is_a_worker_without_microbatches():
    check(parse(GOOD + "    2.1 | R"), ROUTES)


def test_some_backwards_may_be_whole():
    check(parse(GOOD.replace("F0@2 B0@2", "F0@2 B0@2 W0@2")), ROUTES, stash=2)


@pytest.mark.parametrize("more", [" R", " B0@2"])
def test_forward_only_is_just_that(more):
    schedule = parse(render(forward_only(ROUTES)) + more)
    with pytest.raises(ScheduleError, match=f"{more.strip()} has no place in a schedule that only"):
        check(schedule, ROUTES, backward=False)


# What an op waits for, and what it costs


@pytest.mark.parametrize(
    ("op", "needed"),
    [
        ("F0@0", []),
        ("F0@2", ["F0@1"]),
        ("B0@3", ["F0@3"]),
        ("B0@1", ["F0@1", "B0@2"]),
        ("W0@3", ["B0@3"]),
        ("R0@2", ["F0@1"]),
        ("R", []),
    ],
)
def test_needs(op, needed):
    assert needs(Op.parse(op), ROUTES) == tuple(map(Op.parse, needed))


@pytest.mark.parametrize(
    ("op", "cost"),
    [
        ("F0@0", 0.1),
        ("F0@1", 1.0),
        ("F0@3", 0.3),
        ("B0@0", 0.2),
        ("B0@1", 2.0),
        ("B0@3", 0.6),
        ("W0@1", 1.0),
        ("W0@3", 0.3),
        ("R0@2", 1.0),
        ("R", 0.0),
    ],
)
def test_stage_0_costs_less_at_either_end(op, cost):
    assert USUAL.duration(Op.parse(op), ROUTES[0]) == cost


def test_both_halves_of_a_backward_are_the_whole():
    costs = Costs(weights=0.25)
    for hop in (1, 3):
        whole, half = Op(Kind.BACKWARD, 0, hop), Op(Kind.WEIGHTS, 0, hop)
        assert costs.duration(half, ROUTES[0]) == costs.duration(whole, ROUTES[0]) / 4
        both = costs.duration(whole, ROUTES[0], split=True) + costs.duration(half, ROUTES[0])
        assert both == pytest.approx(costs.duration(whole, ROUTES[0]))


def test_a_timeline_adds_up():
    routes = in_order(seats(1), 1)
    spans = timeline(one_f_one_b(routes), routes, lambda *_: 1.0, lambda *_: 0.5)
    assert {str(op): span for (_, op), span in spans.items() if op.kind is not Kind.REDUCE} == {
        "F0@0": (0.0, 1.0),
        "F0@1": (1.5, 2.5),
        "F0@2": (3.0, 4.0),
        "B0@2": (4.0, 5.0),
        "B0@1": (5.5, 6.5),
        "B0@0": (7.0, 8.0),
    }
    assert makespan(one_f_one_b(routes), routes, lambda *_: 1.0, lambda *_: 0.5) == 9.0


def test_replicas_reduce_together():
    routes = in_order(seats(1, num_replicas=2), 3)
    spans = timeline(gpipe(routes), routes, duration(routes), at_once)
    reduce, twins = Op(Kind.REDUCE), (Address(1, 0), Address(1, 1))
    assert len({spans[worker, reduce] for worker in twins}) == 1
    assert spans[twins[0], reduce][0] == max(spans[w, op][1] for w, op in spans if w in twins)


def test_a_deadlock_renders_without_time():
    assert render(parse("0.0 | F0@1 F1@0\n1.0 | F1@1 F0@0")) == "0.0 | F0@1 F1@0\n1.0 | F1@1 F0@0"


@pytest.mark.parametrize("text", ["1.0 F0@1", "1.0 | F0", "x | F0@1", "1.0 | R\n1.0 | R"])
def test_what_is_no_schedule_is_not_parsed(text):
    with pytest.raises(ValueError, match="not a"):
        parse(text)


def test_the_picture_is_an_image(tmp_path):
    routes = swapped(in_order(seats(4), 6))
    spans = timeline(one_f_one_b(routes), routes, duration(routes), at_once)
    path = tmp_path / "timeline.svg"
    draw_timeline(spans, path, swapped={m for m in range(6) if is_swapped(m, 0.5)})
    drawn = path.read_text()
    assert drawn.count("<pattern") == 3  # forward, backward and the legend's
    halves = in_time(zb_h1(routes), routes)
    draw_timeline(halves, tmp_path / "halves.svg")
    assert "#009e73" in (tmp_path / "halves.svg").read_text().lower()
    assert "#009e73" not in drawn.lower()
    draw_timeline(spans, tmp_path / "plain.svg")
    assert "<pattern" not in (tmp_path / "plain.svg").read_text()
