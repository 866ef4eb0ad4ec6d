"""What a machine is told before it takes part in a swarm."""

from __future__ import annotations

import resource
import socket
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from checkfree.cli import main
from checkfree.config.load import load
from checkfree.core.config import Config, DataConfig
from checkfree.session.swarm import doctor
from checkfree.session.swarm.doctor import Finding, look, of_machine, of_run
from tests.process.command import prepare


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(prepare(tmp_path))
    return load("small.yaml")


def found(findings: list[Finding], name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_a_good_machine_has_nothing_to_mend(config: Config) -> None:
    findings = [*look(of_machine()), *look(of_run(config))]
    assert [finding.problem for finding in findings] == [""] * 7
    assert "5 seats" in found(findings, "memory").told


def test_the_disk_for_logs_is_looked_at(config: Config, tmp_path: Path) -> None:
    def with_logs(path: Path) -> Config:
        recovery = replace(config.recovery, name="replay", log_path=str(path))
        return replace(config, recovery=recovery)

    good = found([*look(of_run(with_logs(tmp_path)))], "log")
    assert "for the logs of 5 seats" in good.told and str(tmp_path) in good.told
    bad = found([*look(of_run(with_logs(tmp_path / "gone")))], "log")
    assert "No such file or directory" in bad.problem


def test_one_problem_hides_no_other(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available", lambda: 1 << 20)
    broken = replace(config, data=DataConfig("text", path="missing.txt"), out="/proc/none")
    findings = list(look(of_run(broken)))
    assert "missing.txt" in found(findings, "data").problem
    assert "5 seats" in found(findings, "memory").problem
    assert "out=FOLDER" in found(findings, "run folder").problem


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "hivemind":
            raise metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    problem = found(list(look(of_machine())), "packages").problem
    assert problem == "hivemind missing: pip install 'checkfree[swarm]'"


def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 64))
    assert "ulimit -n" in found(list(look(of_machine())), "open files").problem


def test_a_port_in_use_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("checkfree.cli.doctor._daemon", lambda: "")
    assert main(["doctor", "--listen=127.0.0.1:0"]) == 0
    assert "✓ port: 127.0.0.1:0 can be listened at" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["doctor", f"--listen={place}"]) == 2
    assert f"✗ port: can't listen at {place} (" in capsys.readouterr().out
    assert main(["doctor", "--listen=nowhere"]) == 2
    assert "expected HOST:PORT" in capsys.readouterr().out


def test_a_daemon_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "✓ libp2p daemon: started" in capsys.readouterr().out
