"""Plays many schedules and says what was tried: `python -m tests.simulation.run --seeds 10000 --processes 2`.

A violation is printed with the command that plays exactly that schedule again, every event shown.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

from tests.simulation.invariants import BEYOND_TODAY as BEYOND_INVARIANTS
from tests.simulation.invariants import ENABLED, Invariant
from tests.simulation.kinds import ALL_KINDS, BEYOND_TODAY, TODAY, Kind
from tests.simulation.outcome import Outcome
from tests.simulation.schedule import draw
from tests.simulation.world import play

BATCH = 25
SAID_EVERY = 500
COVERED_SHARE = 0.05
COVERED_PAIRS = 20


def main(argv: list[str] | None = None) -> int:
    call = _parser().parse_args(argv)
    kinds, enabled = (ALL_KINDS, frozenset(Invariant)) if call.all else (TODAY, ENABLED)
    _print_rules(enabled, kinds)
    if call.seed is not None:
        outcome = play(draw(call.seed, kinds), enabled=enabled, verbose=call.verbose)
        if not call.verbose:
            print("\n".join(outcome.trace))
        print(f"\nseed {call.seed}: {outcome.violation or 'all rules held'}")
        return 1 if outcome.violation else 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also in the background: what was played is told
    begin = time.perf_counter()
    outcomes: list[Outcome] = []
    try:
        for outcome in _play_all(range(call.first, call.first + call.seeds), call.processes, kinds, enabled):
            outcomes.append(outcome)
            if outcome.violation:
                _print_violation(outcome, " --all" if call.all else "")
            if len(outcomes) % SAID_EVERY == 0:
                print(f"{len(outcomes)} schedules in {time.perf_counter() - begin:.0f} s", flush=True)
    except KeyboardInterrupt:
        print(f"interrupted: {len(outcomes)} of {call.seeds} schedules")
    if not outcomes:
        return 1
    took_s = time.perf_counter() - begin
    _print_coverage(outcomes, kinds)
    days = sum(outcome.virtual_s for outcome in outcomes) / 86400
    drivers = sum(outcome.drivers for outcome in outcomes)
    processors_s = sum(outcome.processor_s for outcome in outcomes)
    print(f"\n{len(outcomes)} schedules in {took_s:.0f} s: {len(outcomes) / took_s:.1f} schedules/s")
    print(f"{processors_s / len(outcomes):.3f} s of a core each")
    print(f"{drivers} drivers, {days:.0f} days of virtual time")
    violations = sum(outcome.violation is not None for outcome in outcomes)
    print(f"\n{violations} violations")
    return 1 if violations else 0


def _print_violation(outcome: Outcome, options: str) -> None:
    assert outcome.violation is not None
    last_line = str(outcome.violation).strip().splitlines()[-1]
    print(f"\nVIOLATION with seed {outcome.seed}: {outcome.violation.invariant.name}\n  {last_line}")
    print(f"  python -m tests.simulation.run --seed {outcome.seed} --verbose{options}\n", flush=True)


def _play_all(
    seeds: Iterable[int], processes: int, kinds: tuple[Kind, ...], enabled: frozenset[Invariant]
) -> Iterator[Outcome]:
    work = partial(_play_one, kinds=kinds, enabled=enabled)
    if processes == 1:
        yield from map(work, seeds)
        return
    with multiprocessing.get_context("fork").Pool(processes, _end_silently) as pool:
        yield from pool.imap(work, seeds, chunksize=BATCH)


def _end_silently() -> None:
    """A process of the pool: what is played so far is told by the one that it belongs to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _play_one(seed: int, kinds: tuple[Kind, ...], enabled: frozenset[Invariant]) -> Outcome:
    return play(draw(seed, kinds), enabled=enabled).without_trace()


def _print_rules(enabled: frozenset[Invariant], kinds: tuple[Kind, ...]) -> None:
    print("checked:")
    for rule in (rule for rule in Invariant if rule in enabled):
        print(f"  {rule.name}: {rule.value}")
    for title, left_out in (("rules", BEYOND_INVARIANTS - enabled), ("faults", BEYOND_TODAY - set(kinds))):
        if left_out:
            print(f"{title} written and not enabled yet (--all):")
            for item in sorted(left_out, key=lambda item: item.name):
                print(f"  {item.name}: {item.value}")
    print()


def _print_coverage(outcomes: list[Outcome], kinds: tuple[Kind, ...]) -> None:
    """How often each kind of fault took effect, and in how many schedules each did after each other had."""
    single = Counter(itertools.chain.from_iterable(set(outcome.fired) for outcome in outcomes))
    pairs = Counter(itertools.chain.from_iterable(ordered_pairs(outcome.fired) for outcome in outcomes))
    print("share of schedules in which a fault took effect; then in how many the fault of the column did after it")
    print(f"{'':28}" + "".join(f"{number:>4}" for number in range(1, len(kinds) + 1)))
    for number, kind in enumerate(kinds, start=1):
        row = "".join("   ." if other is kind else f"{pairs[kind, other]:>4}" for other in kinds)
        print(f"{number:>2} {kind.name[:19]:19}{single[kind] / len(outcomes):>6.1%}{row}")
    rare = [kind.name for kind in kinds if single[kind] < COVERED_SHARE * len(outcomes)]
    counts = sorted((pairs[a, b], a.name, b.name) for a, b in itertools.permutations(kinds, 2))
    few = sum(count < COVERED_PAIRS for count, _, _ in counts)
    print(f"below {COVERED_SHARE:.0%} of schedules: {', '.join(rare) or 'none'}")
    print(f"ordered pairs seen fewer than {COVERED_PAIRS} times: {few} of {len(counts)}")
    print("rarest: " + ", ".join(f"{a} then {b} {count}" for count, a, b in counts[:6]))
    points = Counter(itertools.chain.from_iterable(outcome.passages for outcome in outcomes))
    print("passages reached: " + ", ".join(f"{point} {count}" for point, count in sorted(points.items())))
    states = Counter(itertools.chain.from_iterable(set(outcome.states) for outcome in outcomes))
    print("states reached: " + ", ".join(f"{state} {count}" for state, count in states.most_common()))


def ordered_pairs(strikes: tuple[Kind, ...]) -> set[tuple[Kind, Kind]]:
    """Every (a, b) of different kinds where b struck at some time after a had."""
    return {(a, b) for a, b in itertools.combinations(strikes, 2) if a is not b}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--verbose", action="store_true", help="with --seed: every passage and every event as it comes")
    parser.add_argument("--all", action="store_true", help="also the rules and faults that are not enabled yet")
    return parser


if __name__ == "__main__":
    sys.exit(main())
