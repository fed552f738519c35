"""What is read of RunPod's answers: the fields we use, of REST v2's shapes. Unknown fields are ignored."""

from __future__ import annotations

from pydantic import BaseModel, Field


class PerCloud(BaseModel):
    """USD an hour for one GPU, or a number of GPUs, in each cloud."""

    secure: float = 0.0
    community: float = 0.0


class DataCenter(BaseModel):
    id: str
    availability: str = ""


class GpuType(BaseModel):
    """One line of the catalog, as asked for one cloud and one number of GPUs."""

    id: str
    name: str
    manufacturer: str = "NVIDIA"
    memory: float
    """GB of VRAM."""
    secure: bool
    community: bool
    price: PerCloud
    max_count: PerCloud = Field(alias="maxCount")
    availability: str = "NONE"
    """NONE, LOW, MEDIUM or HIGH; absent means that it was not asked for."""
    data_centers: list[DataCenter] = Field(alias="dataCenters", default=[])


class Catalog(BaseModel):
    gpus: list[GpuType]


class SshEndpoint(BaseModel):
    host: str
    port: int
    username: str


class Ssh(BaseModel):
    direct: SshEndpoint | None = None
    """None until 22/tcp has a public port: the proxy, the other way in, carries no files."""


class PersistentMount(BaseModel):
    size: float
    """GB."""


class NetworkMount(BaseModel):
    volume_id: str = Field(alias="volumeId")


class Mounts(BaseModel):
    persistent: PersistentMount | None = None
    network: list[NetworkMount] = []


class NetworkVolume(BaseModel):
    id: str
    name: str
    size: float
    """GB."""
    data_center: str = Field(alias="dataCenter")
    tier: str = Field(alias="type", default="STANDARD")
    """STANDARD or HIGH_PERFORMANCE."""


class NetworkVolumes(BaseModel):
    volumes: list[NetworkVolume] = Field(alias="networkVolumes")


class PodGpu(BaseModel):
    count: int = 1


class Pod(BaseModel):
    id: str
    name: str
    status: str
    cost: float = 0.0
    """USD an hour; seen to stay at the running figure while the pod is stopped."""
    disk: float = 0.0
    """GB of container disk."""
    mounts: Mounts = Mounts()
    gpu: PodGpu | None = None
    ssh: Ssh = Ssh()


class Pagination(BaseModel):
    next_cursor: str | None = Field(alias="nextCursor", default=None)


class PodPage(BaseModel):
    pods: list[Pod]
    pagination: Pagination = Pagination()


class Charge(BaseModel):
    total_usd: float = Field(alias="totalAmount")


class PodBilling(BaseModel):
    records: list[Charge]
    """By time bucket."""


class LogLine(BaseModel):
    ts: str = ""
    source: str = ""
    line: str = ""
