"""What there is to compute and to send: bytes and work of stages, and the seconds that ops take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from checkfree.core.config import WireConfig
from checkfree.core.formats import BF16, FP32, INT4_ROWS, INT8_ROWS, SIGNS, WIRE, bytes_of
from checkfree.core.links import Way, parse_links
from checkfree.core.ops import Address, Kind, Op, Route
from checkfree.simulator import sites
from checkfree.simulator.fleet import Fleet
from checkfree.simulator.profile import Profile

BACKWARD = 2.0
"""Of a forward's work, where nothing was measured."""

WEIGHTS_SHARE = 0.5
"""Of a backward, what the gradient of the weights takes where it is apart and was not measured: a
product of matrices takes as long for either of its inputs."""

ROW = 1024
"""Weights that share a scale in the paper's models: their width."""

FORWARD_SHARE = 1 / 3
"""Of the paper's seconds per sample and block, taken as those of forward and backward together:
as a forward's alone they would make an iteration longer than it was (see the calibration)."""


@dataclass(frozen=True)
class Sizes:
    """Bytes, by stage 0 … n where there is more than one number; and work of a microbatch."""

    name: str
    activation: int
    """Of one microbatch between two stages, as it is sent where ``links`` say nothing else."""
    gradient: int
    """The same of what comes back."""
    params: tuple[int, ...]
    buffers: tuple[int, ...]
    moments: tuple[int, ...]
    """Of the optimizer's state, once the stage has stepped."""
    embed: float
    """FLOPs of a forward, as those below."""
    bodies: tuple[float, ...]
    """Of each body stage."""
    head: float
    packed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of a stage's weights as a shadow has them, by how they are written; of signs, a change."""
    told: int | None = None
    """Of an activation that a rebuild is told of; None: as it was sent."""
    stashed: tuple[int, ...] = ()
    """Of what a stage keeps of one microbatch between forward and backward, about; of stage 0,
    what its loss needs."""
    parameters: int = 0
    """Numbers that all stages have to train; 0: it is not told."""
    written: Mapping[str, int] = field(default_factory=dict)
    """Of an activation or its gradient, by format of the wire."""
    links: Mapping[Way, str] = field(default_factory=dict)
    """Formats of single links."""
    visits: int = 1
    """Of a microbatch to each body stage, at each of which it computes an equal share."""

    def activation_on(self, one: Address, other: Address) -> int:
        """Bytes of an activation from one seat to another; from one chunk of a seat to the other
        nothing is sent."""
        if one == other:
            return 0
        how = self.links.get((one, other))
        return self.activation if how is None else self.written[how]

    def gradient_on(self, one: Address, other: Address) -> int:
        """Bytes of a gradient from one seat to another."""
        if one == other:
            return 0
        how = self.links.get((one, other))
        return self.gradient if how is None else self.written[how]

    def stash_at(self, stage: int) -> int:
        """Bytes that a stage keeps of one microbatch at one hop; of stage 0, of its last one."""
        return self.stashed[stage] // (self.visits if stage else 1)

    def state(self, stage: int, *, moments: bool) -> int:
        """Bytes of a stage's state as it is sent."""
        return self.params[stage] + self.buffers[stage] + self.moments[stage] * moments


@dataclass(frozen=True)
class StagePart:
    """Seconds of one microbatch."""

    forward: float
    backward: float
    shadow: float
    halves: tuple[float, float] | None = None
    """Of a split backward: of the gradient by the input, and of that by the weights."""

    @property
    def split(self) -> tuple[float, float]:
        """The halves, measured or not."""
        if self.halves is not None:
            return self.halves
        return (1 - WEIGHTS_SHARE) * self.backward, WEIGHTS_SHARE * self.backward

    def scaled(self, share: float) -> StagePart:
        """With so many times the work."""
        halves = self.halves and (share * self.halves[0], share * self.halves[1])
        return StagePart(share * self.forward, share * self.backward, share * self.shadow, halves)


@dataclass(frozen=True)
class ComputePace:
    """Seconds of everything that a node computes. ``steps``: of an optimizer step, by stage."""

    embed: StagePart
    bodies: tuple[StagePart, ...]
    """Of each body stage, at one of its hops."""
    head: StagePart
    steps: tuple[float, ...]
    overhead: float = 0.0
    """Of an iteration, beside its ops; of one thread that does everything."""
    slower: Mapping[Address, float] = field(default_factory=dict)
    """Seats that take so many times as long for the same."""
    visits: int = 1
    """Hops of a microbatch at each body stage."""
    again: frozenset[int] = frozenset()
    """Stages that run each forward once more, for its backward."""
    offload: frozenset[int] = frozenset()
    """Stages that move what they hold between forward and backward."""
    room: int | None = None
    """Bytes of that which may stay; None: as much as can't be moved while they compute."""

    def seconds(self, op: Op, route: Route, split: bool = False) -> float:
        """Of an op on a microbatch's route. ``split``: it is a backward that leaves the gradient of
        the weights to another op."""
        part, seat = self._part(op.hop, route), route[op.hop - (op.kind is Kind.REDUNDANT)]
        seconds = _of(op, part, split)
        if op.kind is Kind.BACKWARD and op.hop and seat.stage in self.again:
            seconds += part.forward
        return seconds * self.slower.get(seat, 1.0)

    def at(self, stage: int, ops: Collection[Op]) -> Callable[[Op], float]:
        """Seconds of each of a seat's ``ops`` by itself; of a redundant forward, nothing."""
        apart = {op[1:] for op in ops if op.kind is Kind.WEIGHTS}

        def seconds(op: Op) -> float:
            if op.kind in (Kind.REDUCE, Kind.REDUNDANT):
                return 0.0
            part = self.body(stage) if stage else self.head if op.hop else self.embed
            return _of(op, part, op[1:] in apart)

        return seconds

    def step(self, seat: Address) -> float:
        """Of an optimizer step of a seat's stage."""
        return self.steps[seat.stage]

    def both_ways(self, seat: Address) -> float:
        """Of a microbatch's forward and backward at a seat; at stage 0, of both its hops."""
        once = sum(part.forward + part.backward for part in self._parts(seat))
        once += self._parts(seat)[-1].forward * (seat.stage in self.again)
        return once * (self.visits if seat.stage else 1) * self.slower.get(seat, 1.0)

    def forward(self, seat: Address) -> float:
        """Of a microbatch's forward at a seat; at stage 0, of the longer of both its hops."""
        return max(part.forward for part in self._parts(seat)) * self.slower.get(seat, 1.0)

    def backward(self, seat: Address) -> float:
        """The same of its backward."""
        again = self._parts(seat)[-1].forward * (seat.stage in self.again)
        once = max(part.backward for part in self._parts(seat)) + again
        return once * self.slower.get(seat, 1.0)

    def _parts(self, seat: Address) -> tuple[StagePart, ...]:
        return (self.body(seat.stage),) if seat.stage else (self.embed, self.head)

    def body(self, stage: int) -> StagePart:
        """Of a body stage at one hop."""
        return self.bodies[stage - 1]

    def _part(self, hop: int, route: Route) -> StagePart:
        if hop == 0:
            return self.embed
        return self.head if hop == len(route) - 1 else self.body(route[hop].stage)


def _of(op: Op, part: StagePart, split: bool) -> float:
    match op.kind:
        case Kind.FORWARD:
            return part.forward
        case Kind.BACKWARD:
            return part.split[0] if split else part.backward
        case Kind.WEIGHTS:
            return part.split[1]
        case _:
            return part.shadow


def published(stages: int, wire: WireConfig = WireConfig()) -> Sizes:  # noqa: B008 (frozen)
    """The paper's throughput set-up: 32 MiB activations, 256 MiB of weights in a stage of four
    blocks, microbatches of 16 samples. Its work is stated in seconds, see ``pace_of``."""
    values = sites.ACTIVATION // 4
    shape = values // ROW, ROW
    written = {how: bytes_of(shape, how) for how in WIRE}
    activation, gradient = written[wire.activations], written[wire.gradients]
    params = (sites.EMBEDDING, *[sites.STAGE] * stages)
    none, moments = (0,) * (stages + 1), tuple(2 * count for count in params)
    packed = {
        how: tuple(bytes_of((count // 4 // ROW, ROW), how) for count in params)
        for how in (FP32, BF16, INT8_ROWS, INT4_ROWS, SIGNS)
    }
    work = 0.0, (0.0,) * stages, 0.0
    told = told_bytes(values, activation)
    # As if all matrices of a stage were as wide as the hidden state, which each reads and writes.
    stashed = tuple(values // ROW * 2 * (count // ROW) for count in params)
    return Sizes(
        "published",
        activation,
        gradient,
        params,
        none,
        moments,
        *work,
        packed,
        told,
        stashed,
        parameters=sum(params) // 4,
        written=written,
        links=parse_links(wire.links),
    )


def told_bytes(values: int, sent: int) -> int:
    """Of an activation of so many values that took ``sent`` bytes: 16 bits each, at most."""
    return min(sent, bytes_of((values,), BF16))


def pace_of(sizes: Sizes, fleet: Fleet, profile: Profile | None = None) -> ComputePace:
    """Measured seconds if there is a profile; else work over the fleet's speed, with steps free."""
    free = (0.0,) * len(sizes.params)
    if profile is not None:
        return _measured(profile, sizes)
    if sizes.name == "published":
        both = sites.SECONDS_PER_SAMPLE_AND_BLOCK * sites.SAMPLES * sites.BLOCKS_PER_STAGE
        body = _part(both * FORWARD_SHARE)
        head = _part(body.forward * sites.HEAD_BLOCKS / sites.BLOCKS_PER_STAGE)
        bodies = (body.scaled(1 / sizes.visits),) * len(sizes.bodies)
        return ComputePace(StagePart(0.0, 0.0, 0.0), bodies, head, free, visits=sizes.visits)
    embed, head = (_part(flops / fleet.flops) for flops in (sizes.embed, sizes.head))
    bodies = tuple(_part(f / (fleet.flops * sizes.visits)) for f in sizes.bodies)
    return ComputePace(embed, bodies, head, free, visits=sizes.visits)


def _part(forward: float) -> StagePart:
    return StagePart(forward, BACKWARD * forward, forward)


def _measured(profile: Profile, sizes: Sizes) -> ComputePace:
    """Of unequal body stages the profile has the mean: each takes its share of their work."""
    embed, body, head = (
        StagePart(part.forward, part.backward, part.shadow, part.halves)
        for part in (profile.embed, profile.body, profile.head)
    )
    mean = sum(sizes.bodies) / len(sizes.bodies)
    shares = [1.0 if flops == mean else flops / mean for flops in sizes.bodies]
    bodies = tuple(body.scaled(share / sizes.visits) for share in shares)
    steps = (profile.step_edge, *[profile.step_body] * len(bodies))
    overhead = profile.iteration_overhead
    return ComputePace(embed, bodies, head, steps, overhead, visits=sizes.visits)
