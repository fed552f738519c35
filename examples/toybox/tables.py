"""What the experiments found, as values and as the tables of docs/experiments.md. Pure but for reading and writing.

One result is a JSON file in the work folder while the runs go on; `results.jsonl`, beside this module, has those that
the tables were made of, one a line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import judge
from questions import Counts
from variants import EXPERIMENTS, Variant, key_of

RESULTS = Path(__file__).with_name("results.jsonl")
PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"

Results = Mapping[tuple[str, int], "Result"]
"""By `key_of` the variant, and seed."""

_STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""By the number of seeds: deviations of the mean that hold 95 % (Student 1908), for one degree of freedom fewer."""
_COLUMNS = ("subject", "unseen", "place", "drift", "placed_drift", "color", "kinds")
_HEADINGS = ("subject", "unseen places", "place", "drift", "drift in places", "color", "other kinds")


@dataclass(frozen=True)
class Result(Counts):
    train_s: float = 0.0
    weights_sha256: str = ""
    photo_loss: float | None = None
    """The trainer's own figure at the last step: mean loss over a fixed set of noises on the photos."""
    held_out_loss: float | None = None
    """The same over drawings of the subject that nobody has trained on, one in each place."""


# ---- files ---------------------------------------------------------------------------------------------------------


def file_of(folder: Path, variant: Variant, base: Path, seed: int) -> Path:
    return folder / f"{key_of(variant, base)}-seed{seed}.json"


def store(result: Result, variant: Variant, base: Path, seed: int, folder: Path) -> None:
    """The file appears whole or not at all."""
    file = file_of(folder, variant, base, seed)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps({"label": variant.label} | written(result), indent=1) + "\n")
    unfinished.replace(file)


def of_folder(folder: Path) -> Results:
    found = {}
    for file in sorted(folder.glob("*-seed*.json")):
        key, _, seed = file.stem.partition("-seed")
        found[key, int(seed)] = read(json.loads(file.read_text()))
    return found


def released(file: Path = RESULTS) -> Results:
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return {(line.pop("key"), line.pop("seed")): read(line) for line in lines}


def release(results: Results, base: Path) -> None:
    """Writes those that belong to an experiment into `RESULTS`, and the tables into `PAGE`."""
    labels = {key_of(variant, base): variant.label for variants in EXPERIMENTS.values() for variant in variants}
    with RESULTS.open("w", encoding="utf-8") as file:
        for (key, seed), result in sorted(results.items(), key=lambda each: [*labels, each[0][0]].index(each[0][0])):
            if key in labels:
                told = {"key": key, "seed": seed, "label": labels[key]} | written(result)
                file.write(json.dumps(told, ensure_ascii=False) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text("utf-8"), results, base), "utf-8")


def written(result: Result) -> dict[str, Any]:
    return dataclasses.asdict(result)


def read(content: dict[str, Any]) -> Result:
    """The other way round of `written`, without a label."""
    content = {key: value for key, value in content.items() if key != "label"}
    shares = {key: judge.Share(**value) for key, value in content.items() if isinstance(value, dict)}
    return Result(**{**content, **shares})


# ---- tables --------------------------------------------------------------------------------------------------------


def with_tables(page: str, results: Results, base: Path) -> str:
    """`page` with everything between `<!-- table: NAME -->` and `<!-- end -->` written anew."""

    def written(found: re.Match[str]) -> str:
        return "\n".join([found[1], *tables_of(found[2], results, base), found[3]])

    return re.sub(r"(<!-- table: (\S+) -->)\n.*?(<!-- end -->)", written, page, flags=re.DOTALL)


def tables_of(name: str, results: Results, base: Path) -> list[str]:
    """Lines of markdown. What was not run is left out."""
    rows = _rows(name, results, base)
    if not rows:
        return ["Not run yet."]
    lines = _table(("", *_HEADINGS, "diversity", "seeds"), rows)
    if name == "interruption":
        lines += ["", _equal_weights(name, results, base)]
    if name == "best":
        chosen = [_chosen(*each, results, base) for each in _SCORES]
        lines += ["", *_table(("chosen by", "steps, by seed", *_HEADINGS), [row for row in chosen if row])]
    return lines


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _rows(name: str, results: Results, base: Path) -> list[list[str]]:
    rows = []
    for variant in EXPERIMENTS[name]:
        found = _by_seed(variant, results, base)
        if found:
            told = mean_told([result.diversity for result in found.values()])
            rows.append([variant.label, *_cells(list(found.values())), told, str(len(found))])
    return rows


def _cells(found: Sequence[Result]) -> list[str]:
    columns = ([getattr(result, each) for result in found] for each in _COLUMNS)
    return [share_told([share for share in column if share is not None]) for column in columns]


def _by_seed(variant: Variant, results: Results, base: Path) -> dict[int, Result]:
    key = key_of(variant, base)
    return {seed: result for (of, seed), result in sorted(results.items()) if of == key}


def share_told(shares: Sequence[judge.Share]) -> str:
    """The share of all pictures, and the wider of two 95 % intervals: Wilson's over pictures, Student's over seeds."""
    if not shares:
        return "–"
    pooled = judge.Share(sum(share.hits for share in shares), sum(share.n for share in shares))
    low, high = pooled.interval
    over_seeds = _over_seeds([share.value for share in shares])
    if over_seeds is not None:
        low, high = min(low, over_seeds[0]), max(high, over_seeds[1])
    return f"{pooled.value:.2f} ({max(0.0, low):.2f}–{min(1.0, high):.2f})"


def mean_told(values: Sequence[float]) -> str:
    """The mean, and Student's 95 % interval where there are several seeds."""
    mean, over_seeds = statistics.fmean(values), _over_seeds(values)
    return f"{mean:.2f}" if over_seeds is None else f"{mean:.2f} ({max(0.0, over_seeds[0]):.2f}–{over_seeds[1]:.2f})"


def _over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    half = _STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def _equal_weights(name: str, results: Results, base: Path) -> str:
    one, other = (_by_seed(variant, results, base) for variant in EXPERIMENTS[name])
    equal = [one[seed].weights_sha256 == other[seed].weights_sha256 for seed in one.keys() & other.keys()]
    return f"Weights equal bit for bit: {sum(equal)} of {len(equal)} pairs."


# ---- which checkpoint ----------------------------------------------------------------------------------------------

_SCORES: tuple[tuple[str, Callable[[int, Result], float | None]], ...] = (
    ("the last one", lambda steps, _: -steps),
    ("the lowest loss on the photos", lambda _, result: result.photo_loss),
    ("the lowest loss on drawings held out", lambda _, result: result.held_out_loss),
)


def _chosen(label: str, score: Callable[[int, Result], float | None], results: Results, base: Path) -> list[str] | None:
    """Of each seed's checkpoints the one with the lowest score; None where nothing has one."""
    by_seed: dict[int, list[tuple[float, int, Result]]] = {}
    for variant in EXPERIMENTS["best"]:
        for seed, result in _by_seed(variant, results, base).items():
            value = score(variant.steps, result)
            if value is not None:
                by_seed.setdefault(seed, []).append((value, variant.steps, result))
    best = [min(each, key=lambda scored: scored[:2]) for _, each in sorted(by_seed.items())]
    if not best:
        return None
    return [label, ", ".join(str(steps) for _, steps, _ in best), *_cells([result for _, _, result in best])]
