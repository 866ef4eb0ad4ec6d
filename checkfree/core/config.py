"""What a run is: frozen dataclasses, one docstring and unit per field. Data only; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from checkfree.models.config import ModelConfig

_INTERNAL = {"internal": True}
"""Never configured, nor written down: ``code`` is that of a part from outside of checkfree, once
somebody has permitted it (see ``parts``)."""


@dataclass(frozen=True)
class DataConfig:
    """Which text a run trains on, and how it becomes tokens."""

    name: str = "stdlib"
    """``stdlib``, ``text``, ``jsonl``, ``parquet``, ``bin``, ``tinystories``, ``openwebtext`` or
    ``hf:OWNER/NAME`` or ``hf:OWNER/NAME/SUBSET`` (any Hugging Face data set, streamed); or a
    corpus from outside of checkfree, as ``my_texts:verses``."""

    path: Optional[str] = None
    """File or folder for ``text``, ``jsonl``, ``parquet`` and ``bin``."""

    tokenizer: str = "bytes"
    """``bytes``; the path of a Hugging Face ``tokenizer.json``, or of a model's folder with one; or
    a model's name, ``ORGANISATION/NAME``, if it is in this machine's Hub cache. A run keeps a copy
    in its own folder, and goes on with that."""

    separator: Optional[str] = None
    """The token of the ``tokenizer.json`` that ends a document, such as ``<|eot_id|>``; None: the
    one that a model's folder says, else that the file puts after a text, else a usual one that it
    has."""

    text_field: str = "text"
    """The column that holds the text, for ``jsonl``, ``parquet`` and Hugging Face data."""

    validation_share: float = 0.05
    """Share of the documents (by hash of name or content) that only validation sees, in (0, 1)."""

    documents: Optional[int] = None
    """At most this many documents (not for ``bin``); None: all."""

    cache: str = "~/.cache/checkfree"
    """Where tokenized text is kept."""

    code: Any = field(default=None, compare=False, repr=False, metadata=_INTERNAL)

    kept: Any = field(default=None, compare=False, repr=False, metadata=_INTERNAL)
    """Of a run that goes on: the folder with its own copy of the tokenizer."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How a stage steps."""

    name: str = "adam"
    """``adam``, ``adamw``, ``sgd`` or ``muon``: Muon (torch 2.9 or later) for the matrices of body
    stages, and ``adamw`` for all else: stage 0 with embedding and head, and experts that are one
    tensor of three dimensions, as those of ``hf`` are, with their biases."""

    lr: float = 2e-3
    """Peak learning rate, per step. Under ``muon`` matrices move as far by it as under ``adamw``,
    so one that is good for ``adamw`` is a good one."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment, per step; ``muon``: of what it leaves to ``adamw``."""

    eps: float = 1e-8
    """Added to the root of the second moment; ``muon``: of what it leaves to ``adamw``."""

    momentum: Optional[float] = None
    """``sgd``: decay of the running sum of gradients, per step, in [0, 1); ``muon``: of their
    running mean, with Nesterov's look ahead. None: 0.9 for ``sgd``, 0.95 for ``muon``."""

    weight_decay: float = 0.0
    """L2 for ``adam`` and ``sgd``, decoupled for ``adamw`` and ``muon``."""

    schedule: str = "constant"
    """``constant``, ``cosine`` or ``wsd`` (warm-up, stable, decay)."""

    warmup: int = 0
    """Iterations of linear warm-up, for every schedule."""

    decay: Optional[int] = None
    """Iterations of decay at the end of a ``wsd`` run; None: a fifth of the run."""

    min_lr: float = 0.0
    """Where a decay ends, as a share of ``lr``, in [0, 1]."""

    clip: Optional[float] = 1.0
    """Largest gradient norm; None: no clipping."""

    clip_over: str = "stage"
    """The norm is that of each ``stage`` (the paper), or ``global``."""


@dataclass(frozen=True)
class RecoveryConfig:
    """What is done about a lost stage."""

    name: str = "auto"
    """``auto``, ``replay``, ``shadow``, ``fit``, ``none``, ``checkfree``, ``checkfree_plus``,
    ``checkpoint``, ``redundant``, ``random``, ``zero``, ``copy`` or ``uniform``; one that an
    installed package offers; or one of your own, as ``my_rules:Momentum``. A living replica is
    always copied first."""

    options: Any = None
    """Of a strategy from outside of checkfree: what it is made with, by name. May also stand
    beside ``name``."""

    code: Any = field(default=None, compare=False, repr=False, metadata=_INTERNAL)

    exponent: float = 2.0
    """CheckFree: a neighbour weighs its gradient norm to this power (1 or 2)."""

    gradient: str = "before"
    """CheckFree: the norm is taken ``before`` or ``after`` clipping."""

    optimizer: str = "fresh"
    """Moments of an inexactly rebuilt stage: ``fresh`` or ``average`` of the sources'."""

    lr_scale: Optional[float] = None
    """Learning rate of a rebuilt stage over the schedule's; None: the strategy's own (1.1 for
    CheckFree and CheckFree+, else 1.0). Persists, does not compound."""

    lr_scale_half_life: Optional[float] = None
    """Iterations in which the excess of ``lr_scale`` over 1 halves; None: never."""

    share: float = 0.5
    """CheckFree+: share of the microbatches that run the ends swapped, in [0, 1]."""

    partner: str = "copy"
    """CheckFree+: a lost S2 or S(n-1) becomes a ``copy`` of its swap partner (the published code)
    or the ``average`` of its neighbours (the published formula)."""

    interval: int = 100
    """Checkpoint: iterations between checkpoints."""

    shadow_every: Any = None
    """shadow, auto: iterations between two pushes of a stage's weights to another stage's seat, at
    least ``stages`` + 1; or ``auto``: the faster the loss falls the more often, within
    ``shadow_budget``. None: 10 for ``signs``, 30 for other formats, or as many as there are
    stages."""

    shadow_format: str = "signs"
    """shadow, auto: how those weights are written. ``signs``: what changed since the last push, in
    a bit per weight and a magnitude per 256; what a lost holder held is sent whole, as ``int4``.
    Or all of it each time, as ``int4`` or ``int8`` with a scale per row, ``bf16`` or ``fp32``.
    Bytes are better spent on fresher copies than on finer ones: ``signs`` every 10 iterations are
    no more than ``int4`` every 30. But owner and holder each keep 2 bytes a weight for them."""

    shadow_budget: float = 0.01
    """``shadow_every: auto``: most bytes pushed, as a share of those of activations and
    gradients."""

    shadow_least: int = 1
    """``shadow_every: auto``: fewest iterations between two pushes of a stage, whatever the
    budget."""

    shadow_ahead: float = 1.0
    """shadow, auto: how far a restarted stage is moved on from its shadow of ``signs``, along the
    last change that came of it, but never by more than two of those: 1 makes up for the age of
    the shadow, 0 takes it as it is."""

    fit_steps: int = 128
    """fit, auto: local steps of an averaged stage on what its neighbours hold of the last
    iterations."""

    fit_memory: int = 67108864
    """fit, auto: bytes of activations that each seat holds on to for that."""

    fit_lr: float = 2e-3
    """fit, auto: learning rate (Adam) of those steps."""

    swap: bool = False
    """auto: train a ``share`` of the microbatches with swapped ends, so that swap partners can
    stand in for each other."""

    log_memory: Any = "auto"
    """replay, auto: bytes that each seat's log of what it sent may take, of memory or, by this
    same name, of the disk of ``log_path``. The fuller it is by then, the sooner the next *wave*
    comes, in which every stage puts an exact copy of itself on another's seat, and logs begin anew.
    ``auto``: what about twice ``wave_lag`` iterations take. With 0, the strategy ``auto`` replays
    nothing, as by itself where this machine has not the memory, or where modules of your own train,
    of which nobody knows what they send."""

    log_path: Optional[str] = None
    """replay, auto: folder on a local disk that each seat writes its log to, instead of keeping it
    in memory: then ``log_memory`` are bytes of that disk. For machines with an NVMe and little
    memory. Every machine of a swarm needs the folder; nothing is left in it. None: memory."""

    wave_every: Optional[int] = None
    """replay, auto: iterations between two waves; None: as ``log_memory`` asks for."""

    wave_lag: Optional[int] = None
    """replay, auto: iterations in which the copies of a wave travel, beside all else, before they
    count. None: as many as they need within ``wave_budget``; 2 for modules of your own."""

    wave_budget: float = 0.08
    """replay, auto: bytes of copies, as a share of those of activations and gradients between two
    stages in the meantime."""

    copies: int = 1
    """replay, auto: other seats that hold a copy of each stage, 1 or 2. With 2, any two stages lost
    together come back, whoever held their copies."""

    tolerance: Any = "auto"
    """replay, auto: a replay that does not come out with the very bits, as on another kind of
    processor or on a GPU, counts as *close* if the norms of its gradients were those of then to
    this share. ``auto``: 1e-4, and 1e-2 on a GPU in bf16, or where ``muon`` steps. 0: the same
    bits, or not at all."""

    most_rollback: int = 0
    """auto: iterations that all may go back to the last copies of all stages, if what is lost can't
    be replayed to the same bits though its copy is there. 0: older copies of what is lost alone
    are taken instead."""


@dataclass(frozen=True)
class FailuresConfig:
    """Which stages are lost, and when."""

    scenario: str = "random"
    """``none``, ``random``, ``poisson``, ``bursts``, ``adjacent``, ``nodes``, ``clock``, a preset
    such as ``paper/500m/10``, the path of a trace, or a sampler from outside of checkfree, as
    ``my_failures:storms``. ``random`` without a rate has no failures. ``clock``:
    ``rate_per_hour`` acts on the simulated seconds of ``fleet`` (semantics 9)."""

    probability: Optional[float] = None
    """Of losing a stage, per stage and tick, in [0, 1]."""

    rate_per_hour: Optional[float] = None
    """Probability that a stage is lost within an hour, in [0, 1)."""

    seconds_per_iteration: float = 91.3
    """Turns ``rate_per_hour`` into a probability per tick; never measured."""

    stages: Any = "body"
    """``middle`` (2 … n-1), ``body`` (1 … n), ``all`` (0 … n), ``edges`` (1 and n), or a list."""

    seed: Optional[int] = None
    """None: the run's seed."""

    burst: int = 2
    """``bursts``: consecutive ticks over which one event loses stages."""

    seats_per_node: int = 2
    """``nodes``: seats that one node hosts, and that are lost with it."""

    first: int = 1
    """No failure before this tick."""

    code: Any = field(default=None, compare=False, repr=False, metadata=_INTERNAL)


@dataclass(frozen=True)
class FleetConfig:
    """The machines on whose simulated clock a run is priced, and its failures may fall."""

    name: str = "paper"
    """``paper`` (its seven sites), ``datacenter``, ``machine`` (one, a device per seat), ``home``
    (internet lines), or ``thread`` (the in-process runtime: ops don't overlap); or one from
    outside of checkfree, as ``my_machines:cellar``."""

    sizes: Optional[str] = None
    """Whose bytes and work are priced: ``own`` (the trained model's), ``published`` (the paper's
    throughput set-up), or a configuration such as ``paper/500m``. None: ``published`` for the
    fleet ``paper`` on its own lines, else ``own``."""

    profile: Optional[str] = None
    """A file that ``checkfree profile`` wrote: measured seconds of every op."""

    links: Optional[str] = None
    """A file that ``checkfree profile --links`` wrote: machines, which seats stand there, and
    measured lines between them, in place of the fleet's own. A swarm's placement avoids slow ones
    between neighbours."""

    flops: Optional[float] = None
    """Floating-point operations that a node really does per second; None: the fleet's."""

    detection: Optional[float] = None
    """Seconds until a lost stage is noticed; None: the fleet's."""

    replacement: Optional[float] = None
    """Seconds until a replacement stands by; None: the fleet's."""

    placement: str = "fixed"
    """Where seats stand on the fleet's machines: ``fixed``, as the fleet has them; ``searched``, so
    that an iteration takes as short as a search of some seconds finds. A real swarm's nodes get
    seats by other rules, see the page on spot fleets."""

    upload: str = "blocking"
    """Checkpoints hold training up (``blocking``) or go beside it (``overlapped``)."""

    memory: Optional[int] = None
    """Bytes that the smallest seat has, for ``schedule: auto``; None: its share of what this
    machine has."""

    store: Optional[float] = None
    """Bytes per second between a node and the checkpoint store; None: the fleet's."""

    offload: Optional[float] = None
    """Bytes per second between a node and where it offloads its stash to, each way; None: the
    fleet's."""

    price: Optional[float] = None
    """What a node costs per hour, in any currency; None: no costs are told."""

    code: Any = field(default=None, compare=False, repr=False, metadata=_INTERNAL)


@dataclass(frozen=True)
class WireConfig:
    """How numbers are written that one stage sends to the next: ``fp32`` (as they are computed; in
    a run of ``fp64`` 64 bits wide, in one of ``bf16_weights`` 16), ``bf16``, ``fp16``, ``int8`` in
    blocks of 256 with a scale each, or ``int4`` in blocks of 64. The sender casts, so every runtime
    trains on the same numbers. Sums over replicas, copies and states are never cast."""

    activations: str = "fp32"
    """Of a forward, validation's included."""

    gradients: str = "fp32"
    """Of a backward. ``fp16`` has no number below 6e-8: those become zero."""

    feedback: bool = False
    """What rounding takes of a gradient is added to the next one that goes the same way in the same
    iteration. So the sum over microbatches is right, but for the last; each of them is less so."""

    links: tuple[str, ...] = ()
    """Links that carry activations and gradients in another, coarser format, as in
    ``[0.0>1.0=int4]``: what seat 0.0 sends to 1.0. ``auto``, or ``wire=auto``: those on which, by
    the configured fleet, a message takes longer than a tenth of what either end computes for it,
    each in the finest of ``bf16``, ``int8`` and, for gradients, ``int4`` that is fast enough; the
    run's records have them."""


@dataclass(frozen=True)
class ValidationConfig:
    """When the loss on unseen text is measured."""

    every: int = 20
    """Iterations between validations; 0: never, but for last weights that may have gone too far."""

    microbatches: int = 8
    """Microbatches in one validation pass; always the same ones."""

    after_repair: bool = True
    """Also measure right after each repair, before the next step."""


@dataclass(frozen=True)
class EveryConfig:
    """How often something is saved."""

    every: Optional[int] = None
    """Iterations between two; None: never."""


@dataclass(frozen=True)
class AverageConfig:
    """The running average of a run's weights, which is kept at its end and changes no bit of it."""

    every: Optional[int] = None
    """Iterations between two states that enter it; None: there is no average. Each is stored when
    it is committed, without moments, and training waits for that as for a checkpoint."""

    last: int = 5
    """Of so many of the newest it is the mean."""


@dataclass(frozen=True)
class ResumeConfig:
    """Snapshots that ``--resume`` goes on from."""

    every: int = 20
    """Iterations between two; 0: never."""

    keep: int = 3
    """So many of the newest stay on the disk, with the checkpoints that they need. More are for
    ``checkfree merge``, which averages them, and for ``init=RUN@ITERATION``."""

    last_rung: bool = True
    """In a swarm, go back to the newest one where the strategy gives up."""


@dataclass(frozen=True)
class InitConfig:
    """Whose weights a run begins with, if not with drawn ones. As one word, ``init=RUN@500``, it is
    ``run``. The state is copied into the run's own folder, so the other one may go; iterations
    count from 0, and the learning rate follows this run's schedule."""

    run: Optional[str] = None
    """The folder of another run, or ``RUN@ITERATION``: the state that it had after so many
    iterations, of which a snapshot, a checkpoint or the final weights have to stand there; or
    ``RUN@NAME``, what ``checkfree merge RUN --to NAME`` made. Without ``@`` the newest. The model
    is cut anew if it has another number of stages there. Or a folder with a model of this family,
    as the Hugging Face Hub has them (config.json and safetensors)."""

    optimizer: Optional[bool] = None
    """Whether the optimizer's moments are taken over; None: where they stand there, and are of the
    same kind of optimizer."""

    data: Any = "start"
    """Where the training text begins: at its ``start``; with ``continue`` where the other run had
    come, in tokens; or after so many tokens."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = 0
    """Every random draw of the run derives from it."""

    iterations: int = 100
    """Optimizer steps."""

    out: str = "runs/{name}"
    """The run folder; ``{name}`` becomes the configuration's file name."""

    stages: int = 6
    """Body stages S1 … Sn; stage 0 (embedding and head) comes on top."""

    cut: Any = None
    """Layers of each body stage, as ``[4, 4, 3]``, or of each of their chunks, in the order of the
    model; ``auto``: so that the busiest stage has as
    little to do as can be, by ``layer_costs``; None: equally many. Where stages are unequal none
    can be made of its neighbours."""

    layer_costs: Any = None
    """``cut: auto``: seconds of each layer, or any other measure, in a list; None: its
    floating-point operations."""

    microbatches: int = 8
    """Microbatches per iteration, over all replicas."""

    batch: int = 4
    """Sequences per microbatch."""

    replicas: int = 1
    """Seats per stage; each takes its share of the microbatches."""

    routes: str = "in_order"
    """With replicas, which of them each microbatch visits: ``in_order``, one after the other;
    ``nearest``, at each stage the one that it reaches the soonest; ``flow``, so that the slowest
    link and the busiest seat have the least to do, by what an iteration takes on ``fleet``; in a
    swarm, by what it measures of itself, in order until then. Only who sums what changes by it:
    losses are the same but for rounding."""

    schedule: str = "1f1b"
    """The order of ops on each seat: ``gpipe``, ``1f1b``, or, with split backwards, so that
    gradients of weights are computed where a seat would idle, ``zb_h1`` (the memory of 1F1B) or
    ``zb_h2`` (twice that, for slow links). With two chunks of the model in each body stage, which a
    microbatch visits twice: ``interleaved`` (1F1B with half the bubble), and with split backwards
    ``zbv``, ``v_half`` and ``v_min`` (all, half and a third of the memory of 1F1B). ``auto``: the
    one by which an iteration takes the shortest on ``fleet``, of those that its memory allows; a
    run's records have it. Or one from outside of checkfree, as ``my_schedules:zigzag``."""

    code: Any = field(default=None, compare=False, repr=False, metadata=_INTERNAL)
    """Of a schedule."""

    devices: tuple[str, ...] = ("cpu",)
    """Where stages stand: one device for all, or several that the stages are spread over."""

    precision: str = "fp32"
    """``fp32``; ``fp64``; ``bf16``, by autocast; or ``bf16_weights``, in bf16 throughout, with
    weights that are rounded from fp32 ones after each step. In both of bf16 the weights that train,
    their gradients' sums and moments are fp32, and so is all that is saved or sent of them."""

    stash: Any = "keep"
    """What a stage does with what it holds of a microbatch between forward and backward: ``keep``
    it; ``recompute`` it in the backward; ``offload`` it, from a GPU to the host's memory and else
    to a file, as much as can be moved while it computes; or ``auto``, what this machine has the
    memory for, by what it costs. One for all stages, or stages by word as in ``{offload: [1, 2]}``,
    where all others keep, or a list of one for each stage. No bit of a run depends on it."""

    stash_path: Optional[str] = None
    """Folder on a local disk that stages which are not on a GPU offload to; nothing is left in it.
    None: ``/var/tmp``."""

    stash_room: Optional[int] = None
    """Bytes of memory that a seat may hold of what it offloads: as few microbatches are moved as
    that takes, and it waits for them if it must. None: as many are moved as can be while it
    computes."""

    recompute: Any = False
    """The older form of ``stash: recompute``: true, false, or a list of stages."""

    compile: bool = False
    """Have ``torch.compile`` make faster code of each block of the body stages, by Triton on a GPU
    and else by a C++ compiler. Losses may differ in the last digits, and the first iteration takes
    a minute or so."""

    threads: int = 1
    """torch threads; the same bits come only from the same number (semantics 17)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    failures: FailuresConfig = field(default_factory=FailuresConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: EveryConfig = field(default_factory=EveryConfig)
    """A safety net beside any strategy: checkpoints that the next ``--resume`` may use too."""
    average: AverageConfig = field(default_factory=AverageConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    wire: WireConfig = field(default_factory=WireConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    init: InitConfig = field(default_factory=InitConfig)
