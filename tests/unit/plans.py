"""Plans of one dog, for tests to look at."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

from rich.console import Console

from orchestrator.base_model import BaseFile, BaseSource, HubModel, LocalFolder
from orchestrator.cli.render.plan import render_plan
from orchestrator.dataset.scan import Finding, Photo, Scan
from orchestrator.plan import Plan, StandingMachine, make_plan
from orchestrator.rental import ProviderTerms
from orchestrator.spec import RunSpec
from orchestrator.spec_file import spec_from_photos
from providers.api import Market, Offer

COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"


HUB = HubModel("owner/base", COMMIT, pinned=True)


SHIPPED = LocalFolder(Path("/base"), (BaseFile("a", 10, "00"),), builtin="toybox")


OWN = Offer("local", "here", "", 0, 0.0, Market.ON_DEMAND, 0.0)


BARE = StandingMachine("me@gpu-box", "/home/me/cloudbooth", has_gpu=False)


RENTED = Offer("runpod", "1", "NVIDIA GeForce RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5, "EU-RO-1")


def spec(*overrides: str) -> RunSpec:
    return spec_from_photos(Path("/photos"), "sks dog", ["output.folder=/models", *overrides])


def photo(name: str, width: int = 1000, height: int = 1000, caption: str | None = None) -> Photo:
    return Photo(Path("/photos") / name, width, height, "RGB", 1000, "0" * 64, caption)


def scan(*photos: Photo, findings: tuple[Finding, ...] = ()) -> Scan:
    return Scan(Path("/photos"), photos or tuple(photo(f"{n}.jpg") for n in range(5)), findings)


def scans(instance: Scan | None = None, class_images: Scan | None = None) -> dict[str, Scan]:
    """By the ids that a spec with one folder of photos gives its sets."""
    return {"instance": instance or scan()} | ({} if class_images is None else {"class": class_images})


def plan(
    *overrides: str,
    instance: Scan | None = None,
    class_images: Scan | None = None,
    base: BaseSource = HUB,
    offer: Offer = OWN,
    machine: StandingMachine | None = None,
) -> Plan:
    return make_plan(spec(*overrides), scans(instance, class_images), base, [offer], machine)


def rented(terms: ProviderTerms) -> Plan:
    offer = dataclasses.replace(RENTED, stopped_disk_per_day_usd=0.12)
    return make_plan(spec(), scans(), HUB, [offer], terms_of=lambda _offer: terms)


def reasons(made: Plan) -> dict[str, str]:
    return {decision.what: decision.why for decision in made.decisions}


def warned(made: Plan) -> str:
    return "\n".join(warning.message for warning in made.warnings)


def rendered(made: Plan) -> str:
    console = Console(width=80, file=io.StringIO(), no_color=True)
    render_plan(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
