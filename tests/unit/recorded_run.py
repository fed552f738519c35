"""A run as the laptop would have recorded it: the real ledger, a mirror as a host wrote it, pictures, a model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from orchestrator.home import Home
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, Keeps, State, Trouble
from providers.api import MachineId, Market, Offer
from remote_trainer import wire
from tests.unit.fake_clock import FakeClock

PROMPTS = ("a photo of sks dog", "a photo of sks dog <script>document.title='broken'</script> & \"friends\"")
CEILING_USD = 2.0
STEPS = 400
_SHA256 = "0" * 64
_QUOTE = {"cost_usd": {"low": 0.2, "expected": 0.31, "high": 0.55}}
PLAN = {
    "base_for_job": "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe1",
    "instance_prompt": PROMPTS[0],
    "class_prompt": "a photo of a dog",
    "train": {"method": "lora", "steps": STEPS, "learning_rate": 1e-4, "validation_prompts": list(PROMPTS)},
    "formats": ["lora", "kohya-lora"],
    "decisions": [{"what": "train.learning_rate = 0.0001", "why": "only small added matrices move"}],
    "warnings": [{"message": "a spot machine may be taken away", "hint": "`cloudbooth resume RUN` goes on"}],
    "rental": {"quote": _QUOTE},
    "max_cost_usd": CEILING_USD,
}


class RecordedRun:
    """The run `dog` in `home`: a spot machine is lost at step 200, another trains to the end."""

    def __init__(self, folder: Path, *, name: str = "dog") -> None:
        self.clock = FakeClock()
        self.home = Home(folder)
        self.run_home = self.home.run(name)
        self.ledger = Ledger(self.home.ledger_file, self.clock)
        self.name = name
        self.output = folder / "models" / name
        self.ledger.add_run(name, "vast", "{}", json.dumps(PLAN))
        self.epoch = self.ledger.become_driver(name)
        self._stage()

    def move(self, to: State, why: str, reason: EndReason | None = None) -> None:
        leaving = self.ledger.run(self.name).state
        self.ledger.move(self.name, self.epoch, leaving, to, why, reason)

    def rent(self, tag: str, gpu: str, price_usd: float, market: Market = Market.SPOT) -> None:
        offer = Offer("vast", f"{tag}-offer", gpu, 1, 24.0, market, price_usd)
        self.ledger.record_intent(self.ledger.run(self.name), self.epoch, tag, offer)
        self.ledger.record_created(self.name, self.epoch, tag, MachineId(f"id-{tag}"))

    def begin(self) -> None:
        """Up to the first events of the first machine."""
        self.move(State.PROVISIONING, "the plan was accepted")
        self.rent("cb-one", "RTX 3090", 0.24)
        self.clock.sleep(120)
        self.move(State.SHIPPING, "the machine answers")
        self.clock.sleep(60)
        self.move(State.TRAINING, "the host has everything and its supervisor runs")
        self.write_events("first", self._first_half())
        self.clock.sleep(1200)

    def interrupt(self) -> None:
        """The first machine is taken away, and the second finishes."""
        why = "the provider has taken it away <b>just now</b>"
        self.ledger.record_trouble(
            self.name, self.epoch, "cb-one", Trouble.PREEMPTED, why, Keeps.NOTHING, stopped=False
        )
        self.move(State.RECOVERING, "the machine was pre-empted")
        self.clock.sleep(30)
        self.ledger.record_absent(self.name, self.epoch, "cb-one")
        self.move(State.PROVISIONING, "the run goes on on another machine")
        self.rent("cb-two", "RTX 4090", 0.48, Market.ON_DEMAND)
        self.clock.sleep(150)
        self.move(State.SHIPPING, "the machine answers")
        self.clock.sleep(60)
        self.move(State.TRAINING, "the host has everything and its supervisor runs")
        self.write_events("second", self._second_half())
        self.clock.sleep(900)

    def finish(self) -> None:
        self.move(State.RETRIEVING, "training is done", EndReason.DONE)
        self.clock.sleep(45)
        self._write_model()
        self.ledger.record_artifact(self.name, "output", STEPS, self.output, _SHA256)
        self.move(State.RELEASING, "all files are here and verified")
        self.clock.sleep(15)
        self.ledger.record_absent(self.name, self.epoch, "cb-two")
        self.move(State.ENDED, "no machine is left")

    def write_events(self, incarnation: str, events: Iterable[tuple[float, wire.Event]]) -> None:
        """(seconds since the last, event); the host's clock is an hour ahead of ours."""
        t, lines = self.clock.now() + 3600, b""
        for seq, (after_s, event) in enumerate(events):
            t += after_s
            lines += wire.encode_event(event, seq, t)
        file = self.run_home.events(incarnation)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(lines)

    def _first_half(self) -> Iterable[tuple[float, wire.Event]]:
        yield 0, wire.Hello(1, "pod", "3.11.9", 17, 1)
        yield 1, wire.PhaseStarted("environment")
        yield 90, wire.PhaseStarted("load")
        yield 40, wire.Decision("precision bf16", "the GPU computes it natively")
        yield 1, wire.Evaluated(0, 0.151)
        yield 1, self._sample(0, 0)
        yield 1, self._sample(0, 1)
        yield 1, wire.PhaseStarted("train")
        for step in range(10, 201, 10):
            yield 5, wire.StepDone(step, STEPS, _loss(step), 1e-4, 3.1, 11.2)
        yield 5, self._sample(200, 0)
        yield 1, wire.Warned("the disk is nearly full", "`cloudbooth pull RUN` brings home what is there")

    def _second_half(self) -> Iterable[tuple[float, wire.Event]]:
        yield 0, wire.Hello(1, "pod", "3.11.9", 18, 2)
        yield 1, wire.PhaseStarted("load")
        yield 60, wire.PhaseStarted("train")
        for step in range(190, 401, 10):
            yield 2, wire.StepDone(step, STEPS, _loss(step), 1e-4, 6.4, 11.2)
        yield 1, wire.Evaluated(400, 0.092)
        yield 1, self._sample(400, 0)
        yield 1, self._sample(400, 1)
        yield 5, wire.Done(400, _SHA256)

    def _sample(self, step: int, index: int) -> wire.SampleMade:
        path = f"{wire.VALIDATION_FOLDER}/step-{step:06d}/{index:02d}.png"
        file = self.run_home.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((320, 320), 90 - step / 5).convert("RGB").save(file)
        return wire.SampleMade(step, PROMPTS[index], wire.FileEntry(path, file.stat().st_size, _SHA256))

    def _stage(self) -> None:
        images = []
        for index, color in enumerate(("teal", "orange", "purple")):
            name = f"{index:03d}-{color}.png"
            file = self.run_home.staged / "data/instance" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (96, 64 + 32 * index), color).save(file)
            images.append(wire.ImageSpec(name, _SHA256, 96, 96, "a dog & a <b>ball</b>" if index else None))
        dataset = wire.DatasetSpec("instance", "instance", "data/instance", PROMPTS[0], tuple(images))
        job = wire.Job(self.name, self.name, "base", wire.TrainSpec(), (dataset,), ("lora",))
        self.run_home.job_file.write_bytes(wire.dumps(job))

    def _write_model(self) -> None:
        self.output.mkdir(parents=True)
        for name in ("dog.safetensors", "dog-kohya.safetensors", "README.md"):
            (self.output / name).write_bytes(b"x" * 1000)
        versions = {"torch": "2.9.0+cu128", "diffusers": "0.36.0"}
        (self.output / "training.json").write_text(json.dumps({"versions": versions}))


def _loss(step: int) -> float:
    return 0.16 - step * 1e-4 + 0.03 * ((step * 37 % 100) / 100 - 0.5)
