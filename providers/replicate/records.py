"""Replicate's answers as far as they are read. Unknown fields pass; a missing one that we need is an error."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field

from providers import jobs
from providers.jobs import Job, JobId, JobStatus

_STATUS = {
    "starting": JobStatus.QUEUED,
    "processing": JobStatus.RUNNING,
    "succeeded": JobStatus.SUCCEEDED,
    "failed": JobStatus.FAILED,
    "canceled": JobStatus.CANCELED,
    "aborted": JobStatus.CANCELED,
}
Item = TypeVar("Item")
ABORTED = "the service ended it before it began"


class Account(BaseModel):
    username: str


class Model(BaseModel):
    owner: str
    name: str
    visibility: str = "private"


class Version(BaseModel):
    id: str
    openapi_schema: dict[str, Any] | None = None

    @property
    def takes_trainings(self) -> bool | None:
        """None where its schema does not tell."""
        schemas = (self.openapi_schema or {}).get("components", {}).get("schemas")
        return None if not isinstance(schemas, dict) else "TrainingInput" in schemas


class Metrics(BaseModel):
    predict_time: float | None = None


class Output(BaseModel):
    version: str | None = None
    weights: str | None = None


class Training(BaseModel):
    """The fields that the recorded first answer lacks have defaults: `output`, `metrics`, the times."""

    id: str
    model: str = ""
    version: str = ""
    status: str
    input: dict[str, Any] = Field(default_factory=dict)
    output: Output | None = None
    logs: str | None = None
    error: Any = None
    metrics: Metrics | None = None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None

    def as_job(self, tag: str) -> Job:
        """What was computed before a cancel is what the metrics say, else the time between start and end."""
        status = _STATUS.get(self.status, JobStatus.UNKNOWN)
        started, completed = _seconds(self.started_at), _seconds(self.completed_at)
        computed_s = self.metrics.predict_time if self.metrics is not None else None
        if computed_s is None and status.is_over:
            computed_s = 0.0 if started is None or completed is None else max(0.0, completed - started)
        error = "" if self.error is None else str(self.error)
        return Job(
            id=JobId(self.id),
            tag=tag,
            status=status,
            status_text=self.status,
            created_at=self.created_at.timestamp(),
            started_at=started,
            completed_at=completed,
            computed_s=computed_s,
            logs=self.logs or "",
            error=error or (ABORTED if self.status == "aborted" else ""),
            weights_url=(self.output.weights if self.output else None) or "",
            result=(self.output.version if self.output else None) or "",
            web_url=f"https://replicate.com/p/{self.id}",
        )


class Prediction(BaseModel):
    id: str
    status: str
    version: str = ""
    input: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime | None = None
    output: Any = None
    error: Any = None
    logs: str | None = None
    metrics: Metrics | None = None

    def as_prediction(self) -> jobs.Prediction:
        """An output is one address or several, or a text of some other model, which is no picture."""
        listed = self.output if isinstance(self.output, list) else [self.output]
        pictures = tuple(url for url in listed if isinstance(url, str) and url.startswith(("http://", "https://")))
        error = "" if self.error is None else str(self.error)
        status = _STATUS.get(self.status, JobStatus.UNKNOWN)
        computed_s = self.metrics.predict_time if self.metrics is not None else None
        web_url = f"https://replicate.com/p/{self.id}"
        return jobs.Prediction(self.id, status, self.status, pictures, error, web_url, computed_s)


class Page(BaseModel, Generic[Item]):
    """Of a list, newest first."""

    next: str | None = None
    results: list[Item]


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
