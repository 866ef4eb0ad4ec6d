"""Runs of a model of the Hub, asked and measured; and begun with one, by ``init``."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import checkfree
from checkfree.cli import main
from checkfree.cli.display import Display
from checkfree.core.errors import BadInput
from checkfree.session.evaluate import evaluate
from checkfree.session.generate import continued
from checkfree.session.initial import digest_of
from checkfree.session.language_model import open_model
from tests.contract.hub_models import CONTEXT, VOCABULARY, folder_with, with_more
from tests.contract.test_hub_runs import hub_run, undrawn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM

__all__ = ["undrawn"]  # for all tests here, too

NAMES = ["llama tied", "gemma3", "mixtral"]


def trained(tmp_path: Path, out: str, *changes: dict[str, Any]) -> checkfree.Run:
    return checkfree.train(hub_run(tmp_path, out, {"stages": 2, "iterations": 2}, *changes))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_asked_whose_folder_is_gone_and_one_begins_with_its_export(
    name: str, tmp_path: Path
) -> None:
    folder_with(name, tmp_path / "model")
    trained(tmp_path, "run")
    made = checkfree.export(tmp_path / "run", to=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert made.parameters == sum(p.numel() for p in model.parameters())
    shutil.rmtree(tmp_path / "model")
    run, out = open_model(tmp_path / "run"), open_model(tmp_path / "out")
    ids = torch.randint(VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(run.logits(ids), model(ids).logits)
        assert torch.allclose(out.logits(ids), run.logits(ids), atol=1e-5)
    assert "".join(continued(run, b"The", tokens=5)) == "".join(continued(out, b"The", tokens=5))
    texts = [evaluate(one, tmp_path / "text", most=400, context=CONTEXT) for one in (run, out)]
    assert texts[0].loss == pytest.approx(texts[1].loss, abs=1e-5)
    path = {"path": str(tmp_path / "out")}
    config = {"path": None, "config": str(tmp_path / "out/config.json")}
    init = {"init": {"run": str(tmp_path / "out")}, "model": config, "stages": 4}
    one, other = (
        trained(tmp_path, f"again-{place}", change)
        for place, change in enumerate(({"model": path}, init))
    )
    assert one.losses == pytest.approx(other.losses, abs=1e-5)


def test_another_model_of_equal_shapes_is_refused(tmp_path: Path) -> None:
    folder_with("llama", tmp_path / "model")
    tree = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(tree | {"rms_norm_eps": 1e-3}))
    config = {"path": None, "config": str(tmp_path / "other.json")}
    change = {"model": config, "init": {"run": str(tmp_path / "model")}}
    with pytest.raises(BadInput, match=r"rms_norm_eps=1e-06, and that of this model has 0\.001"):
        trained(tmp_path, "run", change)
    narrower = json.dumps(tree | {"hidden_size": 16})
    (tmp_path / "other.json").write_text(narrower)
    with pytest.raises(BadInput, match=r"model\.width=16, the folder has .* 32"):
        trained(tmp_path, "run", change)


def test_a_run_begins_with_another_whose_models_folder_lies_elsewhere_or_is_gone(
    tmp_path: Path,
) -> None:
    folder_with("llama", tmp_path / "model")
    trained(tmp_path, "run")
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    shutil.rmtree(tmp_path / "model")
    init = {"run": str(tmp_path / "run")}
    config = {"path": None, "config": str(tmp_path / "moved/config.json")}
    one, other = (
        trained(tmp_path, f"again-{place}", {"model": model, "init": init})
        for place, model in enumerate(({"path": str(tmp_path / "moved")}, config))
    )
    assert one.losses == other.losses and len(one.losses) == 2
    tree = json.loads((tmp_path / "moved/config.json").read_text())
    (tmp_path / "moved/config.json").write_text(json.dumps(tree | {"rms_norm_eps": 1e-3}))
    with pytest.raises(BadInput, match=r"the run has rms_norm_eps=1e-06, and that of this model"):
        trained(tmp_path, "refused", {"model": config, "init": init})


def test_a_folder_that_names_code_to_compute_it_is_not_asked(tmp_path: Path) -> None:
    folder_with("gemma3", tmp_path / "model")
    trained(tmp_path, "run")
    checkfree.export(tmp_path / "run", to=tmp_path / "out")
    file = tmp_path / "out/config.json"
    evil = {"attn_implementation": "kernels-community/evil"}
    file.write_text(json.dumps(json.loads(file.read_text()) | evil))
    with pytest.raises(BadInput, match="no code that a folder names is run"):
        open_model(tmp_path / "out")


def test_names_of_the_hub_are_looked_for_in_this_machines_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by ``model.path``: a run begins with such a model, and it is asked and measured."""
    folder_with("llama", tmp_path / "model")
    trained(tmp_path, "run")
    cached = tmp_path / "hub/models--some--model"
    checkfree.export(tmp_path / "run", to=cached / "snapshots/abc")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fresh = {"path": None, "config": str(cached / "snapshots/abc/config.json")}
    one, other = (
        trained(tmp_path, f"from-{place}", {"model": fresh, "init": {"run": run}})
        for place, run in enumerate(("some/model", str(cached / "snapshots/abc")))
    )
    assert one.losses == other.losses
    assert digest_of("some/model") == one.records[0]["init"]["sha256"]  # as one goes on by it
    assert main(["generate", "some/model", "The", "--tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("The")
    assert main(["evaluate", "some/model", "--text", str(tmp_path / "text")]) == 0
    assert "some/model, on " in capsys.readouterr().out
    told = (
        "runs/typo: no such folder, and no model of that name in the Hub cache of this machine: "
        "give a folder, or fetch it by hf download runs/typo"
    )
    for command in (["generate"], ["evaluate", "--text", "x"]):
        assert main([*command, "runs/typo"]) == 2
        assert told in capsys.readouterr().err
    with pytest.raises(BadInput, match=f"init={told}"):
        trained(tmp_path, "refused", {"model": fresh, "init": {"run": "runs/typo"}})


def test_what_is_in_a_folder_and_not_in_the_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the record of a run that begins from it, as it begins, and by who asks it."""
    folder_with("gemma3", tmp_path / "model")
    assert "unread" not in trained(tmp_path, "run").records[0]
    checkfree.export(tmp_path / "run", to=tmp_path / "out")
    with_more(tmp_path / "out", {name: torch.zeros(1) for name in ("extra.1", "extra.0")})
    told = "2 tensors of the model's folder, as extra.0, not read: the model that its config.json"
    config = {"path": None, "config": str(tmp_path / "out/config.json")}
    init = {"model": config, "init": {"run": str(tmp_path / "out")}}
    for place, change in enumerate(({"model": {"path": str(tmp_path / "out")}}, init)):
        shown = io.StringIO()
        made = hub_run(tmp_path, f"more-{place}", {"stages": 2, "iterations": 1}, change)
        with Display(made, Console(file=shown, width=80)) as display:
            run = checkfree.train(made, listeners=[display])
        assert run.records[0]["unread"] == ["extra.0", "extra.1"]
        assert told in shown.getvalue()
    assert main(["generate", str(tmp_path / "out"), "The", "--tokens", "1"]) == 0
    assert f"checkfree: {told}" in capsys.readouterr().err
    words = ["--text", str(tmp_path / "text"), "--tokens", "9", "--json"]
    assert main(["evaluate", str(tmp_path / "out"), *words]) == 0
    assert f"checkfree: {told}" in capsys.readouterr().err
