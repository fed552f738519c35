"""Replicate as a `JobProvider`: a trainer's version is called with photos and settings, and a model of ours gets the
result as a new version.

Nothing is rented, so nothing can be left running for ever: a training ends by its own number of steps. What it computes
is billed by the second; queueing is not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from providers.errors import AuthRejected, CloudboothError, MachineGone
from providers.jobs import Job, JobId, JobQuote, JobWish, Prediction, PredictionWish, Value
from providers.registry import ProviderContext
from providers.replicate.client import BASE_URL, ReplicateClient
from providers.replicate.mapping import choose_trainer, estimated_seconds, map_fields
from providers.replicate.records import Training
from providers.replicate.refusals import TOKENS_PAGE
from providers.replicate.submitted import Submitted, SubmittedJobs
from providers.replicate.trainers import SERVING_USD_PER_S, Trainer, trainers_with
from providers.replicate.writing import ReplicateWriter
from providers.secret import Secret

NAME = "replicate"
TOKEN_NAME = "REPLICATE_API_TOKEN"
URL_NAME = "REPLICATE_BASE_URL"
UPLOAD_LIMIT_BYTES = 100 * 10**6
CLOCK_DOUBT_S = 26 * 3600.0
"""By so much the service's clock and ours may differ when an old list is no longer read: a laptop that takes its
hardware clock's local time for UTC is off by up to 14 hours, and a job that is not found would be submitted again."""
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*")


class ReplicateProvider:
    """Options: `trainer` (a key of `trainers.TRAINERS`, or of the config file) and `destination` (`owner/name`).

    Raises AuthRejected for a token that is missing or malformed, before any exchange, and CloudboothError for options
    or a config file that cannot be used.
    """

    name = NAME

    def __init__(self, context: ProviderContext) -> None:
        token = _token(context.environ.get(TOKEN_NAME, ""))
        base_url = _base_url(context.environ.get(URL_NAME, ""))
        self._trainers = trainers_with(context.config)
        wanted, destination = context.options.get("trainer"), context.options.get("destination")
        self._trainer_name = None if wanted is None else str(wanted)
        self._destination = None if destination is None else _model_name(str(destination))
        self._client = ReplicateClient(token, base_url)
        self._writer = ReplicateWriter(token, base_url)
        self._submitted = SubmittedJobs(context.state_folder / "jobs")

    def __repr__(self) -> str:
        return f"ReplicateProvider({self._client.base_url})"

    def quote(self, wish: JobWish) -> JobQuote:
        """Three looks: the account, the trainer's version, the destination."""
        trainer = choose_trainer(self._trainers, self._trainer_name, wish.base)
        inputs, fields = map_fields(trainer, wish)
        warnings = self._require_version(trainer)
        destination = self._destination or f"{self._client.account().username}/{_plain(wish.name)}"
        existing = self._client.model(destination)
        if existing is not None and existing.visibility == "public":
            warnings += (f"the model {destination} is public at Replicate: everybody can use what is trained into it",)
        steps = int(wish.settings["train.steps"])
        mapped = trainer.inputs.get("train.resolution")
        return JobQuote(
            provider=NAME,
            trainer=trainer.name,
            version=trainer.version,
            destination=destination,
            destination_exists=existing is not None,
            inputs=inputs,
            fields=fields,
            steps=steps,
            resolution=int(wish.settings["train.resolution"]) if mapped else trainer.resolution,
            usd_per_s=trainer.usd_per_s,
            hardware=trainer.hardware,
            seconds=estimated_seconds(trainer, steps),
            weights=trainer.layout,
            upload_limit_bytes=UPLOAD_LIMIT_BYTES,
            warnings=warnings,
        )

    def upload(self, file: Path, name: str) -> str:
        return self._writer.upload(file, name)

    def forget_upload(self, tag: str) -> None:
        """One of its own files, that is; what lies elsewhere is its owner's to remove."""
        for submitted in self._submitted.with_prefix(tag):
            prefix = f"{self._client.base_url}/v1/files/"
            if submitted.tag == tag and submitted.dataset_url.startswith(prefix):
                self._client.delete_file(submitted.dataset_url.removeprefix(prefix))

    def make_destination(self, quote: JobQuote) -> bool:
        """One that came into being meanwhile is as good as one of ours."""
        if self._client.model(quote.destination) is not None:
            return False
        try:
            self._writer.make_model(quote.destination, self._trainer_of(quote).serving_hardware)
        except CloudboothError:
            if self._client.model(quote.destination) is None:
                raise
            return False
        return True

    def submit(self, quote: JobQuote, dataset_url: str, tag: str) -> JobId:
        dataset_input = self._trainer_of(quote).dataset_input
        submitted = Submitted(
            tag, time.time(), quote.trainer, quote.version, quote.destination, dataset_input, dataset_url
        )
        self._submitted.write(submitted)
        try:
            job_id = self._writer.train(
                quote.trainer, quote.version, quote.destination, quote.inputs, {dataset_input: dataset_url}
            )
        except CloudboothError as error:
            if type(error) is CloudboothError:  # in the service's own words, which may mean the version
                page = f"https://replicate.com/{quote.trainer}/train"
                error.hint = (
                    f"not every version of a trainer takes trainings: one that {page} shows can be pinned as `version` "
                    "in the config file (docs/replicate.md)"
                )
            raise
        self._submitted.answered(submitted, job_id)
        return JobId(job_id)

    def poll(self, job: JobId) -> Job:
        return self._client.training(job).as_job(self._submitted.tag_of(job))

    def list(self, prefix: str) -> Sequence[Job]:
        """Reads the account's trainings back to the oldest of these tags."""
        ours = self._submitted.with_prefix(prefix)
        if not ours:
            return []
        oldest = min(submitted.at for submitted in ours) - CLOCK_DOUBT_S
        listed = self._client.trainings(lambda training: training.created_at.timestamp() < oldest)
        found = []
        for training in listed:
            known = next((submitted for submitted in ours if _is_it(training, submitted)), None)
            if known is not None:
                found.append(training.as_job(known.tag))
        return found

    def cancel(self, job: JobId) -> None:
        """A training that is over answers with an error, which a look tells from others."""
        try:
            self._client.cancel(job)
        except MachineGone:
            return
        except CloudboothError:
            with suppress(MachineGone):
                if not self.poll(job).status.is_over:
                    raise

    def fetch(self, job: Job, archive: Path, received: Callable[[int, int | None], None]) -> None:
        if not job.weights_url:
            raise CloudboothError(
                f"Replicate names no weights for {job.id}",
                f"look at {job.result or job.web_url} there; `cloudbooth attach RUN` asks again",
            )
        try:
            self._client.download(job.weights_url, archive, received)
        except AuthRejected:
            raise
        except CloudboothError as error:
            if not error.hint:
                error.hint = f"`cloudbooth attach RUN` tries again; the model is {job.result} at Replicate"
            raise

    price_hint = "about $0.03 each"

    def predict(self, model: str, wish: PredictionWish) -> str:
        """Inputs go by the names that the trained models share; what is not stated is left to the model."""
        name, _, version = model.partition(":")
        return self._writer.predict(name, version or None, _prediction_inputs(wish))

    def find_prediction(
        self, model: str, wish: PredictionWish, since: float, known: Collection[str]
    ) -> Prediction | None:
        """Replicate keeps no tag of ours: by what was asked, which a seed makes rare enough."""
        version, inputs = model.partition(":")[2], _prediction_inputs(wish)
        oldest = since - CLOCK_DOUBT_S
        listed = self._client.predictions(
            lambda each: each.created_at is not None and each.created_at.timestamp() < oldest
        )
        for each in listed:
            asked_so = each.version == version and all(each.input.get(key) == value for key, value in inputs.items())
            if asked_so and each.id not in known:
                return each.as_prediction()
        return None

    def cancel_prediction(self, prediction: str) -> None:
        try:
            self._client.cancel_prediction(prediction)
        except MachineGone:
            return
        except CloudboothError:
            with suppress(MachineGone):
                if not self.prediction(prediction).status.is_over:
                    raise

    def prediction_usd_per_s(self, base: str) -> float | None:
        """That of the hardware which a model is made with; Replicate may run some on others."""
        trainer = next((each for each in self._trainers.values() if base in (each.trains, *each.also_trains)), None)
        return None if trainer is None else SERVING_USD_PER_S.get(trainer.serving_hardware)

    def prediction(self, prediction: str) -> Prediction:
        return self._client.prediction(prediction).as_prediction()

    def picture(self, url: str) -> bytes:
        with TemporaryDirectory() as folder:
            target = Path(folder) / "picture"
            self._client.download(url, target, lambda _done, _total: None)
            return target.read_bytes()

    def _require_version(self, trainer: Trainer) -> tuple[str, ...]:
        """Warnings about it. Raises CloudboothError when the service does not have it."""
        found = self._client.version(trainer.name, trainer.version)
        if found is None:
            raise CloudboothError(
                f"Replicate has no version {trainer.version[:12]}… of {trainer.name} (any more)",
                f"choose one at https://replicate.com/{trainer.name}/versions and write it as `version` under "
                "[providers.replicate.trainers.…] in the config file",
            )
        if found.takes_trainings is False:
            return (
                f"version {trainer.version[:12]}… of {trainer.name} shows no training input: the service may refuse "
                "it, which costs nothing",
            )
        return ()

    def _trainer_of(self, quote: JobQuote) -> Trainer:
        for trainer in self._trainers.values():
            if (trainer.name, trainer.version) == (quote.trainer, quote.version):
                return trainer
        raise CloudboothError(
            f"the trainer {quote.trainer} of version {quote.version[:12]}… is not in the config file any more",
            "put it back under [providers.replicate.trainers.…], or launch again",
        )


def _prediction_inputs(wish: PredictionWish) -> dict[str, Value]:
    named: dict[str, Value | None] = {
        "prompt": wish.prompt, "negative_prompt": wish.negative or None, "seed": wish.seed, "width": wish.width,
        "height": wish.height, "num_inference_steps": wish.steps, "guidance_scale": wish.guidance,
        "num_outputs": 1, "output_format": "png",
    }  # fmt: skip
    return {key: value for key, value in named.items() if value is not None}


def _is_it(training: Training, submitted: Submitted) -> bool:
    if submitted.job_id is not None:
        return training.id == submitted.job_id
    return training.input.get(submitted.dataset_input) == submitted.dataset_url


def _token(value: str) -> Secret:
    token = value.strip()
    if not token:
        raise AuthRejected(
            "Replicate needs a token, and REPLICATE_API_TOKEN is not set",
            f"make one at {TOKENS_PAGE} and `export REPLICATE_API_TOKEN=...`",
        )
    if re.search(r"[^\x21-\x7e]", token):
        raise AuthRejected(
            "REPLICATE_API_TOKEN holds blanks or letters that no token has", "copy it again: it begins with r8_"
        )
    return Secret(token, TOKEN_NAME)


def _base_url(value: str) -> str:
    url = value.strip().rstrip("/")
    if not url:
        return BASE_URL
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CloudboothError(f'{URL_NAME} must be an address, is "{url}"', f"export {URL_NAME}={BASE_URL}")
    return url.removesuffix("/v1")


def _model_name(text: str) -> str:
    if not _MODEL.fullmatch(text):
        raise CloudboothError(
            f'a destination is owner/name in small letters, is "{text}"',
            "--set compute.replicate.destination=me/my-dog",
        )
    return text


def _plain(name: str) -> str:
    """A run's name as one of a model: small letters, digits, `-`, `_` and `.`."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower())
