"""Pictures from a model that a service has: asked for once, waited for, downloaded, put side by side, and paid for.

Each is on record before it is asked for (`predictions.py`). Ctrl-C cancels the one under way.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel
from orchestrator.hosted.predictions import ask, cost_of, look, record_of
from orchestrator.ledger import PredictionRecord
from orchestrator.ranges import usd
from orchestrator.spec import RunSpec
from orchestrator.whole_file import write_atomically
from orchestrator.wiring import Wiring
from providers.errors import CloudboothError
from providers.jobs import HasPredictions, JobStatus, PredictionWish
from remote_trainer import wire

POLL_S = 1.0
PATIENCE_S = 900.0
GAP = 4


def predict_pictures(
    wiring: Wiring, spec: RunSpec, model: FinishedModel, job: wire.PictureJob, folder: Path, told: Callable[[str], None]
) -> list[wire.FileEntry]:
    """One prediction for each seed, so that each picture can be had again. Each bills some cents, and is said before.

    What they have cost is said at the end. Raises UsageError for what the service cannot do, and CloudboothError when a
    prediction fails.
    """
    provider = wiring.job_provider(spec)
    if not isinstance(provider, HasPredictions):
        raise UsageError(f"{provider.name} makes no pictures", "--where here")
    if job.compare or job.sampler is not None:
        raise UsageError(f"{provider.name} has neither the base beside the model nor samplers", "--where here")
    told(f"{job.count} pictures at {provider.name}, which bills their computing time: {provider.price_hint}")
    folder.mkdir(parents=True, exist_ok=True)
    made, asked = list[wire.FileEntry](), list[PredictionRecord]()
    for seed in range(job.seed, job.seed + job.count):
        wish = PredictionWish(job.prompt, job.negative, seed, job.width, job.height, job.steps, job.guidance)
        tag = ask(wiring.ledger, wiring.clock, provider, model.name, model.hosted, model.base, wish)
        record = record_of(wiring.ledger, model.name, tag)
        content = _require_picture(_picture(wiring, provider, record), provider.name)
        made.append(_save(folder / f"{seed}.png", content, folder))
        asked.append(record_of(wiring.ledger, model.name, tag))
    made.append(_save(folder / "grid.png", _grid([folder / entry.path for entry in made]), folder))
    cost = cost_of(asked)
    told("what they have cost, the service does not say" if cost is None else f"they have cost about {usd(cost)}")
    return made


def _picture(wiring: Wiring, provider: HasPredictions, record: PredictionRecord) -> bytes:
    assert record.prediction is not None
    try:
        return _awaited(wiring, provider, record)
    except KeyboardInterrupt:
        provider.cancel_prediction(record.prediction)
        look(wiring.ledger, provider, record)
        raise


def _awaited(wiring: Wiring, provider: HasPredictions, record: PredictionRecord) -> bytes:
    until = wiring.clock.monotonic() + PATIENCE_S
    while True:
        seen = look(wiring.ledger, provider, record)
        if seen.status is JobStatus.SUCCEEDED and seen.pictures:
            return provider.picture(seen.pictures[0])
        if seen.status.is_over:
            raise CloudboothError(f"{provider.name} made no picture: {seen.error or seen.status_text}", "--where here")
        if wiring.clock.monotonic() >= until:
            raise CloudboothError(
                f"{provider.name} has not made the picture in {PATIENCE_S / 60:.0f} min", f"look at {seen.web_url}"
            )
        wiring.clock.sleep(POLL_S)


def _require_picture(content: bytes, service: str) -> bytes:
    """Raises CloudboothError for what is none: an address that died hands out a page."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CloudboothError(f"what {service} handed out is no picture: {error}", "the same command again") from None
    return content


def _save(path: Path, content: bytes, folder: Path) -> wire.FileEntry:
    write_atomically(path, content)
    return wire.FileEntry(path.relative_to(folder).as_posix(), len(content), hashlib.sha256(content).hexdigest())


def _grid(paths: list[Path]) -> bytes:
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in paths]
    wide = max(1, round(len(pictures) ** 0.5))
    high = -(-len(pictures) // wide)
    width, height = pictures[0].size
    canvas = Image.new("RGB", ((width + GAP) * wide + GAP, (height + GAP) * high + GAP), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, wide)
        canvas.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    written = io.BytesIO()
    canvas.save(written, "PNG")
    return written.getvalue()
