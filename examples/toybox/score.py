"""Lets the judge count what a run has learned: `python score.py RUN_FOLDER MODEL_FOLDER`, then `cloudbooth report RUN`.

RUN_FOLDER is `runs/NAME` in cloudbooth's folder, MODEL_FOLDER the diffusers folder that the run has made. The figures,
of the base and of the model, are written beside the run's pictures, where the report finds them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import judge
from draw_photos import NAME
from questions import Counts, counted
from remote_trainer.bases.resolve import resolve_base

FILE = "validation/scores.json"
_SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder, with `validation` in it")
    parser.add_argument("model", type=Path, help="a diffusers folder that `robot.toml` has made")
    parser.add_argument("--rounds", type=int, default=2, help="41 pictures of each model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _show_no_bars()
    base = Path(resolve_base("builtin:toybox", Path()))
    steps = int(json.loads((arguments.model.parent / "training.json").read_text())["steps"])
    told = [
        *scores(counted(base, NAME, _SEED, arguments.rounds), 0),
        *scores(counted(arguments.model, NAME, _SEED, arguments.rounds), steps),
    ]
    write(told, arguments.run)
    for each in told:
        print(f"step {each['step']:>4}  {each['value']:.2f} ({each['low']:.2f} to {each['high']:.2f})  {each['name']}")


def write(told: list[dict[str, object]], run: Path) -> None:
    content = {"judge": "the judge of examples/toybox", "scores": told}
    (run / FILE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def scores(counts: Counts, step: int) -> list[dict[str, object]]:
    """Higher is better in all of them."""
    drift = [counts.drift, *([counts.placed_drift] if counts.placed_drift else [])]
    others = judge.Share(sum(each.n - each.hits for each in drift), sum(each.n for each in drift))
    shares = {
        f"subject fidelity: “{NAME}” is the subject": counts.subject,
        "subject fidelity at night and in the snow, where no photo shows it": counts.unseen,
        "prompt fidelity: the place that was asked for": counts.place,
        "prompt fidelity: the color that was asked for": counts.color,
        "class fidelity: any other robot is not the subject": others,
        "class fidelity: other things are what they are called": counts.kinds,
    }
    told: list[dict[str, object]] = []
    for name, share in shares.items():
        low, high = share.interval
        told.append({"name": name, "step": step, "value": share.value, "low": low, "high": high, "n": share.n})
    half = 1.96 * counts.diversity_error
    diversity = {"value": counts.diversity, "low": max(0.0, counts.diversity - half), "high": counts.diversity + half}
    told.append({"name": "diversity of “a robot”", "step": step, **diversity, "n": counts.drift.n - counts.color.n})
    return told


def _show_no_bars() -> None:
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    main()
