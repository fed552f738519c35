"""What has to be in order before a run, looked at one by one. Nothing here rents, and nothing is changed.

Each check is a function that returns findings and raises nothing; a finding that is not good carries what to do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib import metadata
from pathlib import Path

from orchestrator.ledger import Ledger
from orchestrator.plan import StandingMachine
from orchestrator.workload import ENVIRONMENT_GB
from providers.api import GpuRequest, HasStandingMachine, MachineProvider, Offer
from providers.errors import CloudboothError
from providers.installation import installing
from providers.jobs import JobProvider, JobWish

PACKAGES = ("orchestrator", "providers", "remote_trainer")
"""Our top-level names: others may have chosen them too, and then Python imports whichever comes first."""
DISTRIBUTION = "cloudbooth"
MIN_FREE_GB = 5.0
"""A model with its checkpoints on the way home; a Stable Diffusion pipeline alone has 4 to 5."""
MAX_CLOCK_ERROR_S = 300.0
"""Signatures of S3 requests are refused when the clocks differ by a quarter of an hour."""
GB = 1e9


class Verdict(Enum):
    GOOD = "good"
    DOUBTFUL = "doubtful"
    """A run may go well, or another kind of run would not."""
    BAD = "bad"
    UNCHECKED = "unchecked"


@dataclass(frozen=True)
class Finding:
    what: str
    """What was looked at, in a word or two."""
    verdict: Verdict
    fact: str
    hint: str = ""


def packages() -> Iterator[Finding]:
    """Whether our names are ours, and which Python and version this is."""
    version = f"cloudbooth {metadata.version(DISTRIBUTION)}, Python {sys.version.split()[0]}"
    yield Finding("version", Verdict.GOOD, version)
    owners = metadata.packages_distributions()
    for name in PACKAGES:
        strangers = sorted(set(owners.get(name, ())) - {DISTRIBUTION})
        if strangers:
            yield Finding(
                "packages", Verdict.BAD, f"{', '.join(strangers)} also installs a package named `{name}`",
                "give cloudbooth an environment of its own: `uv tool install cloudbooth` or `pipx install cloudbooth`",
            )  # fmt: skip


def state_folder(root: Path) -> Iterator[Finding]:
    """Whether the state can be kept, and a model would fit beside it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"cloudbooth")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        yield Finding(
            "state", Verdict.BAD, f"{root} cannot be written: {reason}", "export CLOUDBOOTH_HOME=~/.cloudbooth"
        )
        return
    free_gb = shutil.disk_usage(root).free / GB
    if free_gb < MIN_FREE_GB:
        what = f"{root} has {free_gb:.1f} GB left; a model with its checkpoints takes up to {MIN_FREE_GB:.0f}"
        yield Finding("disk", Verdict.DOUBTFUL, what, "free some space, or move the state with CLOUDBOOTH_HOME")
    else:
        yield Finding("disk", Verdict.GOOD, f"{free_gb:.0f} GB free in {root}")


def bills(ledger: Ledger) -> Iterator[Finding]:
    """What may cost money now."""
    tags = [machine.tag for machine in ledger.open_machines() if machine.price_per_hour_usd > 0]
    tags += [prediction.tag for prediction in ledger.open_predictions()]
    if tags:
        yield Finding("bills", Verdict.DOUBTFUL, f"may cost money at this moment: {', '.join(tags)}", "cloudbooth ps")
    else:
        yield Finding("bills", Verdict.GOOD, f"nothing that may cost money; {len(ledger.runs())} runs on record")


def ssh_client() -> Iterator[Finding]:
    """OpenSSH's client reads ssh_config for us; without it `Include` and `Match` are not understood."""
    program = shutil.which("ssh")
    if program is None:
        yield Finding(
            "ssh", Verdict.DOUBTFUL, "there is no OpenSSH client: `Include` and `Match` in ~/.ssh/config are not read",
            "install it: apt-get install openssh-client, or brew install openssh",
        )  # fmt: skip
        return
    asked = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=10, check=False)
    yield Finding("ssh", Verdict.GOOD, asked.stderr.strip() or program)


def this_machine() -> Iterator[Finding]:
    """Whether `provider = "local"` has what it needs; found without importing it."""
    missing = []
    for name in ("torch", "diffusers", "transformers", "peft"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        fact = f"{', '.join(missing)} not installed here: a run on this machine first builds an environment"
        yield Finding("training here", Verdict.UNCHECKED, fact, f"in the checkout: {installing('train')}")
        return
    gpu = "an NVIDIA driver" if shutil.which("nvidia-smi") else "no NVIDIA driver, so on the CPU: days for real models"
    yield Finding("training here", Verdict.GOOD, f"torch {metadata.version('torch')}, {gpu}")


def clock(endpoint: str, now_s: float) -> Iterator[Finding]:
    """This machine's clock against the date that the hub's server states. Blocks for ten seconds at most."""
    import httpx

    try:
        stated = httpx.head(endpoint, timeout=10, follow_redirects=True).headers.get("Date", "")
        error_s = now_s - parsedate_to_datetime(stated).timestamp()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        yield Finding("clock", Verdict.UNCHECKED, f"{endpoint} does not say what time it is ({type(error).__name__})")
        return
    if abs(error_s) > MAX_CLOCK_ERROR_S:
        way = "ahead" if error_s > 0 else "behind"
        yield Finding(
            "clock", Verdict.BAD, f"this machine's clock is {abs(error_s) / 60:.0f} minutes {way}",
            "sudo timedatectl set-ntp true",
        )  # fmt: skip
    else:
        yield Finding("clock", Verdict.GOOD, f"within {max(1.0, abs(error_s)):.0f} s of {endpoint}")


def hub_token(endpoint: str, token: str | None) -> Iterator[Finding]:
    """A token may travel to a rented machine, so one that can write must not be used. Blocks for ten seconds."""
    import httpx

    if not token:
        yield Finding("hub", Verdict.GOOD, "HF_TOKEN is not set: fine for bases that need none")
        return
    try:
        answer = httpx.get(f"{endpoint}/api/whoami-v2", headers={"Authorization": f"Bearer {token}"}, timeout=10)
        told = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        yield Finding("hub", Verdict.UNCHECKED, f"{endpoint} cannot be asked ({type(error).__name__})")
        return
    if answer.status_code == 401:
        hint = f"make a read token at {endpoint}/settings/tokens, then export HF_TOKEN=…"
        yield Finding("hub", Verdict.BAD, "the token in HF_TOKEN is not accepted", hint)
        return
    role = str(told.get("auth", {}).get("accessToken", {}).get("role", "unknown"))
    if role == "write":
        yield Finding(
            "hub", Verdict.DOUBTFUL, "the token in HF_TOKEN may write, which no training needs",
            f"make a read token at {endpoint}/settings/tokens, then export HF_TOKEN=…",
        )  # fmt: skip
    else:
        yield Finding("hub", Verdict.GOOD, f"HF_TOKEN is accepted (role {role})")


ANY_JOB = JobWish("doctor", {"train.steps": 1000})
"""For a look at a service that takes hosted jobs, without a spec."""


def provider(name: str, build: Callable[[], MachineProvider]) -> Iterator[Finding]:
    """Whether the provider can be built with the credentials at hand, and answers. Rents nothing.

    Building exchanges nothing with the service: a provider that refuses to be built is one that is not set up.
    """
    what = f"provider {name}"
    try:
        built = build()
    except CloudboothError as error:
        yield Finding(what, Verdict.UNCHECKED, f"not set up: {error.message}", error.hint)
        return
    if isinstance(built, HasStandingMachine):
        yield Finding(what, Verdict.GOOD, "needs no account")
        return
    try:
        offers = built.offers(GpuRequest(market=min(built.markets, key=lambda market: market.value)))
    except CloudboothError as error:
        yield Finding(what, Verdict.BAD, error.message, error.hint)
    else:
        yield Finding(what, Verdict.GOOD, _offered(list(offers)))


def machine(look: Callable[[], StandingMachine | None]) -> Iterator[Finding]:
    """Whether a machine that stands lets us in and can be used; `look` logs in, and makes its work folder at most."""
    try:
        seen = look()
    except CloudboothError as error:
        yield Finding("machine", Verdict.BAD, error.message, error.hint)
        return
    if seen is None:
        return
    room = "" if seen.free_gb is None else f", {seen.free_gb:.0f} GB free in {seen.workdir}"
    yield Finding("machine", Verdict.GOOD, f"{seen.label} answers{room}")
    if not seen.has_gpu:
        fact = f"{seen.label} shows no NVIDIA GPU: real models take days on a CPU"
        yield Finding("gpu", Verdict.DOUBTFUL, fact, "train on a machine that has one, or rent one: cloudbooth gpus")
    if not seen.has_environment:
        fact = f"{seen.label} has none of the trainer's packages: the first run installs PyTorch and the rest there"
        yield Finding("environment", Verdict.DOUBTFUL, fact, f"leave {ENVIRONMENT_GB:g} GB of room, and some minutes")


def job_provider(name: str, build: Callable[[], JobProvider], wish: JobWish = ANY_JOB) -> Iterator[Finding]:
    """As `provider`, for one that takes hosted jobs: whether it answers, and has the trainer that `wish` leads to."""
    what = f"provider {name}"
    try:
        built = build()
    except CloudboothError as error:
        yield Finding(what, Verdict.UNCHECKED, f"not set up: {error.message}", error.hint)
        return
    try:
        quote = built.quote(wish)
    except CloudboothError as error:
        yield Finding(what, Verdict.BAD, error.message, error.hint)
        return
    told = f"answers; {quote.trainer} computes for ${quote.usd_per_s * 3600:.2f}/h"
    yield Finding(what, Verdict.DOUBTFUL if quote.warnings else Verdict.GOOD, "; ".join((told, *quote.warnings)))


def _offered(offers: list[Offer]) -> str:
    if not offers:
        return "answers; nothing is for rent there right now"
    cheapest = min(offers, key=lambda offer: offer.price_per_hour_usd)
    return f"answers; {len(offers)} offers, from ${cheapest.price_per_hour_usd:.2f}/h ({cheapest.gpu})"


def store(url: str, check: Callable[[], None]) -> Iterator[Finding]:
    """Whether the spec's object storage can be used. `check` writes, reads and removes a small object."""
    try:
        check()
    except CloudboothError as error:
        yield Finding("storage", Verdict.BAD, error.message, error.hint)
    else:
        yield Finding("storage", Verdict.GOOD, f"{url} can be written, read and cleared")
