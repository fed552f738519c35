"""Photos in, usable model out: through this machine and through a bare SSH host."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import require_sshd
from tests.e2e.command import PHOTOS, Cloudbooth, Finished
from tests.fakes.sshd import make_key, running_sshd

# Real photographs are licensed for use beside a checkout, not inside one; a checkout by itself has drawn ones.
REAL_PHOTOS = Path(__file__).parents[3] / "shared" / "datasets" / "dog"
SUBJECT = REAL_PHOTOS if REAL_PHOTOS.is_dir() else PHOTOS


def mean_losses(installation: Cloudbooth, run: str) -> list[float]:
    """On the fixed set of (image, noise, timestep), first to last."""
    return [event["mean_loss"] for event in installation.events(run, "evaluation")]


@dataclass(frozen=True)
class Trained:
    installation: Cloudbooth
    launch: Finished


def trained_in_full(installation: Cloudbooth) -> Trained:
    settings = ("--set", "train.method=full", "--set", "train.learning_rate=2e-3", "--steps", "60")
    return Trained(installation, installation.run(*installation.launch_argv("subject", *settings, photos=SUBJECT)))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_in_full(Cloudbooth(tmp_path_factory.mktemp("here")))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `over_ssh`, on the host."""
    return tmp_path_factory.mktemp("host") / "work"


@pytest.fixture(scope="module")
def over_ssh(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    require_sshd()
    folder = tmp_path_factory.mktemp("over-ssh")
    key = folder / "home" / ".ssh" / "id_ed25519"
    with running_sshd(folder / "sshd", [make_key(key)]) as sshd:
        sshd.write_known_hosts(key.with_name("known_hosts"))
        access = sshd.access()
        settings = {"port": sshd.port, "python": sys.executable, "workdir": workdir, "identity_file": key}
        sets = [part for name, value in settings.items() for part in ("--set", f"compute.ssh.{name}={value}")]
        home = {"HOME": str(folder / "home"), "SSH_AUTH_SOCK": str(folder / "no-agent")}
        return trained_in_full(Cloudbooth(folder, ("--host", f"{access.user}@{access.host}", *sets), home))


@pytest.mark.parametrize("where", ["here", "over_ssh"])
def test_full_training_yields_a_pipeline_that_loads_and_has_learned(where: str, request: pytest.FixtureRequest) -> None:
    trained: Trained = request.getfixturevalue(where)

    assert trained.launch.summary["reason"] == "done"
    assert trained.launch.summary["cost_usd"] == 0
    losses = mean_losses(trained.installation, "subject")
    assert losses[-1] < 0.9 * losses[0]
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(trained.installation.models / "subject" / "diffusers")
    [picture] = pipeline("a photo of sks robot", height=64, width=64, num_inference_steps=2).images
    assert picture.size == (64, 64)


def test_photos_leave_the_host_when_the_run_is_done(over_ssh: Trained, workdir: Path) -> None:
    assert over_ssh.launch.summary["reason"] == "done"
    assert (workdir / "code").is_dir(), "the test looks in the wrong place"
    left = [path for path in (workdir / "runs").rglob("*") if path.is_file()]
    assert all(path.parent.name == ".forgotten" and path.read_text().isdigit() for path in left), "but for the epoch"


@pytest.mark.parametrize("where", ["cloudbooth", "cloudbooth_over_ssh"])
def test_lora_training_yields_a_file_that_diffusers_loads(where: str, request: pytest.FixtureRequest) -> None:
    installation: Cloudbooth = request.getfixturevalue(where)
    prior = ("--set", "data.regularization=generate:3", "--set", "train.learning_rate=1e-3")
    done = installation.run(*installation.launch_argv("subject", "--steps", "40", *prior))

    losses = mean_losses(installation, "subject")
    assert losses[-1] < losses[0]
    from diffusers import StableDiffusionPipeline

    from remote_trainer.bases import tiny

    base = installation.root / "base"
    tiny.build(base)
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(done.summary["output"], weight_name="subject.safetensors")
    assert pipeline.unet.peft_config, "no adapter was loaded"


def test_a_base_folder_on_the_laptop_travels_to_the_host(cloudbooth_over_ssh: Cloudbooth) -> None:
    from remote_trainer.bases import tiny

    base = cloudbooth_over_ssh.root / "my-base"
    tiny.build(base)
    argv = cloudbooth_over_ssh.launch_argv("subject", "--steps", "4", "--set", f"model.base={base}")
    done = cloudbooth_over_ssh.run(*argv, "--set", 'output.formats=["single-file"]', "--set", "train.method=full")
    assert done.summary["reason"] == "done"
    assert base_travelled(done)

    file = cloudbooth_over_ssh.models / "subject" / "subject_4.safetensors"
    argv = cloudbooth_over_ssh.launch_argv("again", "--steps", "4", "--set", f"model.base={file}")
    done = cloudbooth_over_ssh.run(*argv, "--set", "model.config=builtin:tiny")
    assert done.summary["reason"] == "done", "a model of one run is the base of the next, as a single file"
    assert base_travelled(done)


def base_travelled(launch: Finished) -> bool:
    return any(line["type"] == "transfer" and line["what"] == "base model" for line in launch.lines)
