"""A swarm that begins with an old run's state: what is here, and what comes in by the join server;
and one that goes on where its data lie elsewhere."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkfree.core.records import of_kind, read
from tests.chaos import SOAK
from tests.process.command import end_of, last_tick, losses, numbers, run
from tests.process.test_swarm_stop import Fleet, ended

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
)
PATIENT = "--patience=60"
"""A loaded machine stalls for a second at times: nobody is to be lost for that."""
PARENT = ("small.yaml", "iterations=10", "out=parent", "--quiet")
CHILD = ("small.yaml", "init=parent@5", "init.data=continue", "stages=2", "iterations=12")


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    run(folder, "train", *PARENT)
    made = Fleet(folder)
    try:
        yield made
    finally:
        made.end()


def test_processes_of_this_machine_begin_as_one_process_does(fleet: Fleet) -> None:
    entries = {"failures": [{"iteration": 0, "stage": 1}, {"iteration": 7, "stage": 2}]}
    (fleet.folder / "losses.json").write_text(json.dumps(entries))
    words = (*CHILD, "failures=losses.json", "recovery=copy", "--quiet")
    run(fleet.folder, "swarm", "up", *words, "out=run", PATIENT)
    run(fleet.folder, "train", *words, "out=one")
    assert numbers(fleet.run) == numbers(fleet.folder / "one")
    assert read(fleet.run)[0]["init"]["iteration"] == 5
    assert (fleet.run / "init/00000000/stage-2.safetensors").is_file()
    run(fleet.folder, "verify", "run", "--quiet")


def test_a_model_s_folder_is_begun_with_as_in_one_process(fleet: Fleet) -> None:
    run(fleet.folder, "export", "parent", "--to", "model")
    words = ("small.yaml", "init=model", "stages=2", "iterations=6", "--quiet")
    run(fleet.folder, "swarm", "up", *words, "out=run", PATIENT)
    run(fleet.folder, "train", *words, "out=one")
    assert numbers(fleet.run) == numbers(fleet.folder / "one")
    assert read(fleet.run)[0]["init"]["kind"] == "folder"
    (fleet.folder / "model").rename(fleet.folder / "gone")
    run(fleet.folder, "verify", "run", "--quiet")


@pytest.mark.skipif(not SOAK, reason="half a minute: CHECKFREE_SOAK=1")
def test_nodes_have_their_first_states_from_the_lead(fleet: Fleet) -> None:
    """They have neither the old run nor its copy; the lead dies, and all begins where it was. The
    texts are elsewhere by then."""
    long = (*CHILD, "iterations=60")  # that it is not done before its lead is killed
    run(fleet.folder, "train", *long, "out=one", "--quiet")
    lead = fleet.lead(*long, "out=run", "--chaos")
    (fleet.folder / "parent").rename(fleet.folder / "gone")
    for name in ("attic", "barn"):
        fleet.join(name, "--host", name)
    fleet.comes_to(6, lead)
    assert not of_kind(read(fleet.run), "recovery")  # that was how it began
    lead.kill()
    ended(lead, -signal.SIGKILL)
    fleet.kill_nodes()
    (fleet.folder / "texts").mkdir()
    (fleet.folder / "text.txt").rename(fleet.folder / "texts" / "text.txt")
    again = fleet.lead("--resume", "run", "data.path=texts/text.txt", "--wait=2")
    for name in ("cave", "den"):
        fleet.join(name, "--host", name)
    ended(again, 0)
    for node in fleet.nodes.values():
        ended(node, 0)
    assert end_of(fleet.run)["status"] == "done"
    assert losses(fleet.run) == losses(fleet.folder / "one")
    run(fleet.folder, "verify", "run", "--quiet")


@pytest.mark.skipif(not SOAK, reason="20 seconds: CHECKFREE_SOAK=1")
def test_all_are_lost_before_the_first_snapshot(fleet: Fleet) -> None:
    """Then the state to begin with is all that is left."""
    words = (*CHILD, "resume.every=1000", "iterations=100000", "validation.every=0")
    lead = fleet.lead(*words, "out=run")
    fleet.join("attic", "--host", "attic")
    fleet.comes_to(2, lead)
    fleet.kill_nodes()
    before = last_tick(fleet.run)
    fleet.join("barn", "--host", "barn")
    fleet.comes_to(before + 3, lead)
    lead.terminate()
    ended(lead, 130)
    (back,) = of_kind(read(fleet.run), "recovery")
    assert {made["rule"] for made in back["rebuilds"].values()} == {"snapshot"}
    assert back["resume_at"] == 0
    steps = of_kind(read(fleet.run), "iteration")
    assert [step["loss"] for step in steps if step["iteration"] == 0] == [steps[0]["loss"]] * 2
    run(fleet.folder, "verify", "run", "--quiet")
