"""Checkpoints stand whole or do not exist."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from remote_trainer import checkpoint, wire
from remote_trainer.checkpoint import Frozen, RunState
from remote_trainer.commit import read_committed


def state(step: int) -> RunState:
    evaluation = wire.Evaluated(0, 0.5)
    return RunState(step, "base=b method=full seed=1", Frozen("fp32", 1, False, 1e-4), (evaluation,))


@pytest.fixture
def trained() -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return dict(model.named_parameters()), optimizer


def save(run_folder: Path, step: int, trained, keep: int = 2) -> Path:
    return run_folder / checkpoint.save(run_folder, state(step), *trained, keep).folder


def test_a_checkpoint_restores_weights_and_optimizer_bit_for_bit(run_folder, trained):
    save(run_folder, 5, trained)
    found = checkpoint.newest(run_folder)
    assert found is not None
    assert found.state == state(5)
    fresh = nn.Linear(4, 3)
    parameters, optimizer = dict(fresh.named_parameters()), torch.optim.AdamW(fresh.parameters(), fused=True)
    found.restore(parameters, optimizer)
    for name, parameter in trained[0].items():
        assert torch.equal(parameters[name], parameter)
        for entry, value in trained[1].state[parameter].items():
            assert torch.equal(optimizer.state[parameters[name]][entry], value)


def test_the_event_names_the_manifest_that_lies_on_disk(run_folder, trained):
    event = checkpoint.save(run_folder, state(5), *trained, 2)
    manifest = read_committed(run_folder / event.folder)
    assert manifest is not None
    assert (manifest.sha256, manifest.step, manifest.total_bytes) == (event.manifest_sha256, 5, event.bytes)
    assert event.folder == wire.checkpoint_folder(5)


@pytest.mark.parametrize("torn", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_checkpoint_that_lacks_a_file_is_passed_over_and_removed(run_folder, trained, torn):
    save(run_folder, 5, trained)
    (save(run_folder, 6, trained) / torn).unlink()
    found = checkpoint.newest(run_folder)
    assert found is not None
    assert found.state.step == 5
    assert not (run_folder / wire.checkpoint_folder(6)).exists()


def test_a_truncated_file_is_noticed(run_folder, trained):
    weights = save(run_folder, 5, trained) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpoint.newest(run_folder) is None


def test_one_flipped_bit_is_noticed(run_folder, trained):
    weights = save(run_folder, 5, trained) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert checkpoint.newest(run_folder) is None


def test_a_torn_manifest_is_noticed(run_folder, trained):
    manifest = save(run_folder, 5, trained) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    assert checkpoint.newest(run_folder) is None


def test_a_manifest_of_an_unknown_state_format_is_passed_over(run_folder, trained):
    folder = save(run_folder, 5, trained)
    raw = json.loads((folder / "state.json").read_text()) | {"surprise": 1}
    (folder / "state.json").write_text(json.dumps(raw))
    assert checkpoint.newest(run_folder) is None


def test_what_a_crash_left_unfinished_is_cleaned_up(run_folder, trained):
    save(run_folder, 5, trained)
    leftover = run_folder / "checkpoints" / ".checkpoint-000006.unfinished"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    checkpoint.newest(run_folder)
    assert sorted(path.name for path in (run_folder / "checkpoints").iterdir()) == ["checkpoint-000005"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(run_folder, trained, keep):
    for step in range(1, 6):
        save(run_folder, step, trained, keep)
    kept = sorted(path.name for path in (run_folder / "checkpoints").iterdir())
    assert kept == [f"checkpoint-{step:06d}" for step in range(6 - keep, 6)]


def test_the_one_with_the_lowest_loss_is_kept_besides(run_folder, trained):
    evaluations = [wire.Evaluated(0, 0.1)]
    for step, loss in enumerate((0.5, 0.3, 0.4, 0.6, 0.6), start=1):
        evaluations.append(wire.Evaluated(step, loss))
        checkpoint.save(run_folder, replace(state(step), evaluations=tuple(evaluations)), *trained, 1)
    kept = sorted(path.name for path in (run_folder / "checkpoints").iterdir())
    assert kept == ["checkpoint-000002", "checkpoint-000005"]
    best = checkpoint.of_step(run_folder, 2)
    assert best is not None
    assert best.state.step == 2
    assert checkpoint.of_step(run_folder, 3) is None


def test_a_folder_without_checkpoints_has_no_newest(run_folder):
    assert checkpoint.newest(run_folder) is None


def test_parameters_of_another_model_are_refused(run_folder, trained):
    save(run_folder, 5, trained)
    found = checkpoint.newest(run_folder)
    assert found is not None
    other = nn.Linear(4, 3, bias=False)
    with pytest.raises(ValueError, match="holds other parameters"):
        found.restore(dict(other.named_parameters()), torch.optim.AdamW(other.parameters()))


def test_a_save_that_the_disk_refuses_leaves_the_earlier_checkpoint_and_no_scraps(run_folder, trained):
    """A limit on the size of files stands in for the full disk: the write fails in the same place."""
    save(run_folder, 5, trained, keep=1)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, unlimited[1]))
    try:
        with pytest.raises((OSError, SafetensorError)):
            save(run_folder, 6, trained, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert [path.name for path in (run_folder / "checkpoints").iterdir()] == ["checkpoint-000005"]
    found = checkpoint.newest(run_folder)
    assert found is not None
    assert found.state.step == 5
