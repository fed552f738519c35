"""Replicate on loopback: trainers, trainings that advance with every look, files, models, predictions, and a meter.

Every request and answer is held against the published OpenAPI file where it is at hand. What that file does not say was
seen by others and is imitated: a first answer without `output` and `metrics` whose `urls.get` leads to a prediction,
`aborted`, 404 for a destination that does not exist, problem documents without a title, 429 with Retry-After, 503 as
HTML, weights whose address dies. The bill is counted here, whatever the product believes.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import secrets
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from PIL import Image

from providers.replicate.trainers import TRAINERS
from tests.fakes.openapi import OpenApi
from tests.fakes.weights import flux_lora, sdxl_processor_lora

USERNAME = "photographer"
OFFICIAL_LORA_MODEL = "black-forest-labs/flux-dev-lora"
MAX_FILE_BYTES = 100 * 10**6
TRAINING_INPUT = {"components": {"schemas": {"TrainingInput": {"type": "object"}}}}
OVER = frozenset({"succeeded", "failed", "canceled", "aborted"})


@dataclass
class Training:
    id: str
    trainer: str
    version: str
    destination: str
    input: Mapping[str, Any]
    photos: tuple[str, ...]
    """Names in the zip, as the trainer has read them."""
    created_at: float
    looks: int = 0
    status: str = "starting"
    logs: str = ""
    error: str | None = None
    started_at: float | None = None
    completed_at: float | None = None
    predict_time: float | None = None
    output: dict[str, str] | None = None

    @property
    def steps(self) -> int:
        names = ("steps", "training_steps", "max_train_steps")
        return next(int(self.input[name]) for name in names if name in self.input)

    @property
    def is_over(self) -> bool:
        return self.status in OVER


@dataclass
class FakeReplicate:
    """One account. What a test changes at any time stands first; numbers of faults count down as they happen."""

    queue_looks: int = 1
    """Looks at a training before it computes."""
    work_looks: int = 2
    """Looks while it computes; infinite work is a large number."""
    predict_time: float = 502.71
    """What a training that succeeds is said to have computed."""
    ends_as: str = "succeeded"
    error: str = "Failed to create trained image after successful training run."
    archive: bytes | None = None
    """Instead of what the trainer makes."""
    refuse_pictures: list[int] = field(default_factory=list)
    """Status codes of predictions to come."""
    slow_pictures: bool = False
    """Predictions go on for as long as this is so."""
    lose_answers: int = 0
    """Trainings to come that are accepted and whose answer breaks off."""
    lose_requests: int = 0
    refuse: list[tuple[int, dict[str, Any] | str, dict[str, str]]] = field(default_factory=list)
    """(status, body, headers) of the requests to come that submit a training."""
    refuse_looks: list[tuple[int, dict[str, Any] | str, dict[str, str]]] = field(default_factory=list)
    """The same of looks at a training."""
    weights_gone: int = 0
    """Downloads to come that find nothing."""
    cut_short: int = 0
    """Downloads to come that break off."""
    done_before_cancel: bool = False
    """A cancel finds the training just done."""
    hidden: int = 0
    """Lists to come that do not show the newest training yet."""
    unknown_versions: frozenset[str] = frozenset()
    page_size: int = 100
    picture: bytes | None = None
    """What every address of a picture hands out, instead of one."""

    now: Callable[[], float] = time.time
    """The service's clock."""
    token: str = field(default_factory=lambda: f"r8_{secrets.token_hex(18)}")
    url: str = ""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    trainings: dict[str, Training] = field(default_factory=dict)
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    """User agents of those that submit."""
    leaks: list[str] = field(default_factory=list)
    """Addresses outside the API that were asked with the token."""
    problems: list[str] = field(default_factory=list)
    contract: OpenApi | None = field(default_factory=lambda: OpenApi.read("replicate-v1.openapi.json"))
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def environ(self) -> dict[str, str]:
        return {"REPLICATE_API_TOKEN": self.token, "REPLICATE_BASE_URL": self.url}

    def only(self) -> Training:
        [training] = self.trainings.values()
        return training

    def billed_usd(self) -> float:
        """Of all trainings: the time that they computed, at their trainer's price."""
        prices = {trainer.name: trainer.usd_per_s for trainer in TRAINERS.values()}
        return sum(prices[training.trainer] * (training.predict_time or 0.0) for training in self.trainings.values())

    # ---- what happens ------------------------------------------------------------------------------------------------

    def train(self, trainer: str, version: str, body: Mapping[str, Any]) -> Training:
        dataset = next(name for name in ("input_images", "dataset") if name in body["input"])
        training = Training(
            secrets.token_hex(12), trainer, version, body["destination"], body["input"],
            self._photos(str(body["input"][dataset])), self.now(),
        )  # fmt: skip
        self.trainings[training.id] = training
        return training

    def _photos(self, url: str) -> tuple[str, ...]:
        """As the trainer reads them: its own files with its own rights, others' addresses without any."""
        found = re.search(r"/v1/files/([0-9a-z]+)$", url)
        content = self.files[found[1]][1] if found else urlopen(url).read()
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            return tuple(packed.namelist())

    def look(self, training: Training) -> None:
        """Each look is a moment later."""
        if training.is_over:
            return
        training.looks += 1
        if self.ends_as == "aborted":
            training.status, training.completed_at = "aborted", self.now()
            return
        worked = training.looks - self.queue_looks
        if worked < 0:
            return
        if training.started_at is None:
            training.started_at = self.now()
        training.status = "processing"
        done = min(training.steps, training.steps * worked // max(1, self.work_looks))
        training.logs += _bar(done, training.steps)
        if worked < self.work_looks:
            return
        training.completed_at, training.predict_time = self.now(), self.predict_time
        if self.ends_as == "failed":
            training.status, training.error = "failed", self.error
            return
        version = secrets.token_hex(32)
        training.status = "succeeded"
        training.output = {
            "version": f"{training.destination}:{version}",
            "weights": f"{self.url}/weights/{training.id}",
        }
        self.models[training.destination]["versions"].append(version)

    def cancel(self, training: Training) -> None:
        if self.done_before_cancel:
            self.work_looks = 0
            self.look(training)
        if not training.is_over:
            training.status, training.completed_at = "canceled", self.now()
            training.predict_time = 0.0 if training.started_at is None else self.now() - training.started_at

    def weights_of(self, training: Training) -> bytes:
        if self.archive is not None:
            return self.archive
        if "flux" in training.trainer:
            return tar_of({"output/flux_train_replicate/lora.safetensors": flux_lora(),
                           "output/flux_train_replicate/config.yaml": b"job: extension\n",
                           "output/flux_train_replicate/captions/000.txt": b"a photo of sks robot"})  # fmt: skip
        if "qwen" in training.trainer:
            return zip_of({"lora.safetensors": flux_lora(), "settings.txt": b"steps=100\n", "config.yaml": b"a: 1\n"})
        return tar_of({"lora.safetensors": sdxl_processor_lora(), "special_params.json": b'{"TOK": "<s0><s1>"}'})

    # ---- what is answered --------------------------------------------------------------------------------------------

    def as_json(self, training: Training, *, first: bool = False) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": training.id, "model": training.trainer, "version": training.version, "input": dict(training.input),
            "logs": "" if first else (training.logs or None), "error": training.error, "status": training.status,
            "created_at": _time(training.created_at),
            # as recorded: the address that the first answer names is one of a prediction
            "urls": {"cancel": f"{self.url}/v1/predictions/{training.id}/cancel",
                     "get": f"{self.url}/v1/predictions/{training.id}"},
        }  # fmt: skip
        if first:
            return shown
        metrics = {} if training.predict_time is None else {"predict_time": training.predict_time}
        return {
            **shown, "output": training.output, "metrics": metrics, "source": "api",
            "started_at": training.started_at and _time(training.started_at),
            "completed_at": training.completed_at and _time(training.completed_at),
        }  # fmt: skip


def _bar(done: int, of: int) -> str:
    """As tqdm prints it, with a bar of something else before it."""
    share = 100 * done // of
    other = "Fetching 24 files: 100%|██████████| 24/24 [00:01<00:00, 15.2it/s]\n" if done == 0 else ""
    tail = f"{done}/{of} [00:{done % 60:02d}<00:09,  1.32it/s, lr: 4.0e-04 loss: {0.5 - 0.3 * done / of:.3f}]"
    return f"{other}my-lora: {share:3d}%|####      | {tail}\n"


def tar_of(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return written.getvalue()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Answer:
    status: int
    """0: none at all; the connection breaks."""
    body: Any = None
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def problem(status: int, detail: str, title: str | None = None, **headers: str) -> Answer:
    body = {**({"title": title} if title else {}), "detail": detail, "status": status}
    return Answer(status, body, "application/problem+json", {k.replace("_", "-"): v for k, v in headers.items()})


@contextlib.contextmanager
def running_replicate(**knobs: Any) -> Iterator[FakeReplicate]:
    """Fails when anybody broke the contract, or sent the token elsewhere."""
    fake = FakeReplicate(**knobs)

    class Handler(_Handler):
        replicate = fake

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert not fake.problems, fake.problems
    assert not fake.leaks, fake.leaks


class _Handler(BaseHTTPRequestHandler):
    replicate: FakeReplicate
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        fake, url = self.replicate, urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with contextlib.suppress(ConnectionError), fake.lock:
            fake.requests.append(f"{self.command} {self.path}")
            if url.path.startswith("/weights/"):
                return self._weights(url.path.rpartition("/")[2])
            if url.path.startswith("/pictures/"):
                return self._send_bytes(fake.picture or _picture(url.path), "image/png")
            answer = self._answer(url.path.removeprefix("/v1"), url.query, raw)
            self._hold_against_contract(url.path.removeprefix("/v1"), answer)
            self._send(answer)
        return None

    do_POST = do_DELETE = do_GET  # noqa: N815

    def _answer(self, path: str, query: str, raw: bytes) -> Answer:
        fake = self.replicate
        if self.headers.get("Authorization") != f"Bearer {fake.token}":
            return problem(401, "You did not pass a valid authentication token", "Unauthenticated")
        parts, call = path.strip("/").split("/"), f"{self.command} {path}"
        if call == "POST /files":
            return self._upload(raw)
        body = json.loads(raw) if raw else None
        found = [] if fake.contract is None else fake.contract.request_problems(self.command, path, {}, body)
        if found and not query:
            fake.problems += [f"{call}: {text}" for text in found]
            return problem(422, "; ".join(found), "Input validation failed")
        match (self.command, *parts):
            case ("GET", "account"):
                return Answer(200, {"type": "user", "username": USERNAME, "name": "A. Photographer"})
            case ("GET", "models", owner, name):
                return self._model(f"{owner}/{name}")
            case ("POST", "models"):
                return self._make_model(body)
            case ("GET", "models", owner, name, "versions", version):
                return self._version(f"{owner}/{name}", version)
            case ("POST", "models", owner, name, "versions", version, "trainings"):
                return self._train(f"{owner}/{name}", version, body)
            case ("DELETE", "files", file_id):
                gone = fake.files.pop(file_id, None) is None
                return problem(404, "Not found") if gone else Answer(204)
            case ("GET", "trainings"):
                return self._list(query)
            case ("GET", "trainings", training_id):
                return self._look(training_id)
            case ("POST", "trainings", training_id, "cancel"):
                if training_id not in fake.trainings:
                    return problem(404, "The requested resource does not exist", "Not found")
                fake.cancel(fake.trainings[training_id])
                return Answer(200, fake.as_json(fake.trainings[training_id]))
            case ("POST", "predictions"):
                return self._predict(str(body["version"]), body["input"])
            case ("POST", "models", owner, name, "predictions"):
                return self._predict(f"{owner}/{name}", body["input"])
            case ("GET", "predictions"):
                newest = sorted(fake.predictions.values(), key=lambda each: each["created_at"], reverse=True)
                return Answer(200, {"previous": None, "next": None, "results": newest})
            case ("GET", "predictions", prediction_id):
                return self._prediction(prediction_id)
            case ("POST", "predictions", prediction_id, "cancel"):
                fake.predictions[prediction_id] |= {"status": "canceled", "metrics": {"predict_time": 1.0}}
                return Answer(200, fake.predictions[prediction_id])
        return problem(404, "The requested resource does not exist", "Not found")

    def _upload(self, raw: bytes) -> Answer:
        fake = self.replicate
        if len(raw) > MAX_FILE_BYTES:
            return problem(413, "Files must be less than 100MB in size")
        kind = self.headers["Content-Type"]
        message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw)
        part = next(part for part in message.iter_parts() if _part_name(part) == "content")  # type: ignore[attr-defined]
        file_id, content = secrets.token_hex(12), part.get_payload(decode=True)
        fake.files[file_id] = (str(part.get_filename()), content)
        return Answer(201, {
            "id": file_id, "name": part.get_filename(), "content_type": part.get_content_type(), "size": len(content),
            "etag": file_id, "checksums": {"sha256": "0" * 64}, "metadata": {},
            "created_at": _time(self.replicate.now()),
            "expires_at": _time(self.replicate.now() + 86400), "urls": {"get": f"{fake.url}/v1/files/{file_id}"},
        })  # fmt: skip

    def _model(self, name: str) -> Answer:
        found = self.replicate.models.get(name)
        if found is None:
            return problem(404, "The requested resource does not exist", "Not found")
        return Answer(200, {key: value for key, value in found.items() if key not in ("versions", "hardware")})

    def _make_model(self, body: Mapping[str, Any]) -> Answer:
        fake, name = self.replicate, f"{body['owner']}/{body['name']}"
        if name in fake.models:
            return problem(409, "A model with that name and owner already exists")
        fake.models[name] = {
            "owner": body["owner"], "name": body["name"], "visibility": body["visibility"], "run_count": 0,
            "url": f"https://replicate.com/{name}", "hardware": body["hardware"], "versions": [],
        }  # fmt: skip
        return Answer(201, self._model(name).body)

    def _version(self, model: str, version: str) -> Answer:
        known = {(trainer.name, trainer.version) for trainer in TRAINERS.values()}
        if version in self.replicate.unknown_versions or (model, version) not in known:
            return problem(404, "The requested resource does not exist", "Not found")
        return Answer(
            200, {"id": version, "created_at": _time(0), "cog_version": "0.9", "openapi_schema": TRAINING_INPUT}
        )

    def _train(self, trainer: str, version: str, body: Mapping[str, Any]) -> Answer:
        fake = self.replicate
        fake.agents.add(self.headers["User-Agent"])
        if fake.lose_requests:
            fake.lose_requests -= 1
            return Answer(0)
        if fake.refuse:
            status, said, headers = fake.refuse.pop(0)
            kind = "text/html" if isinstance(said, str) else "application/problem+json"
            return Answer(status, said, kind, headers)
        if body["destination"] not in fake.models:
            return problem(404, "The specified training destination does not exist")
        training = fake.train(trainer, version, body)
        if fake.lose_answers:
            fake.lose_answers -= 1
            return Answer(0)
        return Answer(201, fake.as_json(training, first=True))

    def _list(self, query: str) -> Answer:
        fake = self.replicate
        newest = sorted(fake.trainings.values(), key=lambda training: -training.created_at)
        if fake.hidden and newest:
            fake.hidden -= 1
            newest = newest[1:]
        start = int(query.removeprefix("cursor=") or 0) if query else 0
        end = start + fake.page_size
        following = f"https://api.replicate.com/v1/trainings?cursor={end}" if end < len(newest) else None
        shown = [fake.as_json(training) for training in newest[start:end]]
        return Answer(200, {"previous": None, "next": following, "results": shown})

    def _look(self, training_id: str) -> Answer:
        fake = self.replicate
        if fake.refuse_looks:
            status, said, headers = fake.refuse_looks.pop(0)
            return Answer(status, said, "text/html" if isinstance(said, str) else "application/problem+json", headers)
        if training_id not in fake.trainings:
            return problem(404, "The requested resource does not exist", "Not found")
        fake.look(fake.trainings[training_id])
        return Answer(200, fake.as_json(fake.trainings[training_id]))

    def _predict(self, version: str, asked: Mapping[str, Any]) -> Answer:
        fake = self.replicate
        if fake.refuse_pictures:
            return problem(fake.refuse_pictures.pop(0), "You have insufficient credit to run this model.")
        if fake.lose_requests:
            fake.lose_requests -= 1
            return Answer(0)
        prediction_id = secrets.token_hex(12)
        fake.predictions[prediction_id] = {
            "id": prediction_id, "model": OFFICIAL_LORA_MODEL, "version": version, "input": dict(asked), "output": None,
            "logs": "", "error": None, "status": "starting", "created_at": _time(self.replicate.now()),
            "urls": {"get": f"{fake.url}/v1/predictions/{prediction_id}",
                     "cancel": f"{fake.url}/v1/predictions/{prediction_id}/cancel", "web": "https://replicate.com/p/x"},
            "data_removed": False, "source": "api",
        }  # fmt: skip
        if fake.lose_answers:
            fake.lose_answers -= 1
            return Answer(0)
        return Answer(201, fake.predictions[prediction_id])

    def _prediction(self, prediction_id: str) -> Answer:
        fake = self.replicate
        if prediction_id not in fake.predictions:
            return problem(404, "The requested resource does not exist", "Not found")
        prediction = fake.predictions[prediction_id]
        if prediction["status"] == "canceled" or fake.slow_pictures:
            return Answer(200, prediction)
        count = int(prediction["input"].get("num_outputs", 1))
        prediction |= {
            "status": "succeeded", "metrics": {"predict_time": 3.5}, "completed_at": _time(self.replicate.now()),
            "started_at": _time(self.replicate.now()),
            "output": [f"{fake.url}/pictures/{prediction_id}-{index}.png" for index in range(count)],
        }  # fmt: skip
        return Answer(200, prediction)

    def _weights(self, training_id: str) -> None:
        """Another host than the API's, in effect: it wants no token."""
        fake = self.replicate
        if fake.weights_gone:
            fake.weights_gone -= 1
            return self._send(problem(404, "Not found"))
        content = fake.weights_of(fake.trainings[training_id])
        if fake.cut_short:
            fake.cut_short -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        return self._send_bytes(content, "application/x-tar")

    def _hold_against_contract(self, path: str, answer: Answer) -> None:
        """Refusals are not in the contract but for a few, and were seen."""
        fake = self.replicate
        if fake.contract is None or answer.status == 0 or answer.status >= 400:
            return
        found = fake.contract.answer_problems(self.command, path, answer.status, answer.kind, answer.body)
        # The file knows no null, and recorded answers are full of them.
        wrong = [text for text in found if ": None is not of type" not in text]
        fake.problems += [f"answer {answer.status} to {self.command} {path}: {text}" for text in wrong]

    def _send(self, answer: Answer) -> None:
        if answer.status == 0:
            self.close_connection = True
            return
        text = answer.body if isinstance(answer.body, str) else "" if answer.body is None else json.dumps(answer.body)
        self._send_bytes(text.encode(), answer.kind, answer.status, answer.headers)

    def _send_bytes(
        self, content: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _part_name(part: Message) -> object:
    return part.get_param("name", header="content-disposition")


def _picture(path: str) -> bytes:
    shade = sum(path.encode()) % 200
    written = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 90, 200 - shade)).save(written, "PNG")
    return written.getvalue()
