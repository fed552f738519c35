"""A finished run's model at work: pictures here, and the model published to where others open it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import yaml
from PIL import Image

from tests.e2e.command import Cloudbooth
from tests.fakes.writable_hub import running_writable_hub


def python_without_us(code: str, folder: Path, *args: str, **environ: str) -> str:
    """Runs `code` where only third-party packages can be imported; returns the last line that it prints."""
    paths = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *_linked_packages()))
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    proof = "import importlib.util as u; assert not any(map(u.find_spec, ('orchestrator', 'remote_trainer')))\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", proof + code, *args],
        env={**kept, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **environ},
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def _linked_packages() -> list[str]:
    """Folders of packages that this environment borrows from another one."""
    return [path for path in sys.path if path.endswith("site-packages")]


def test_pictures_of_model_and_base_lie_side_by_side_in_a_grid(trained: Cloudbooth) -> None:
    argv = ("generate", "bot", "a photo of sks robot", "--compare", "--steps", "2", "--to", "pictures", "--json")
    made = [Path(file).name for file in trained.run(*argv).summary["files"]]
    assert made == [*(f"{s}-base.png" for s in range(42, 46)), *(f"{s}.png" for s in range(42, 46)), "grid.png"]
    width, height = Image.open(trained.root / "pictures" / "grid.png").size
    assert (width // 64, height // 64) == (2, 4), "a row for each seed: base, trained"
    told = Image.open(trained.root / "pictures" / "42.png").info["parameters"]
    assert told.startswith("a photo of sks robot\nSteps: 2, Sampler: ")


LOAD_LORA = """
import sys
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.load_lora_weights(sys.argv[2], weight_name="bot.safetensors", token=sys.argv[3] or None)
print(len([m for m in pipe.unet.modules() if hasattr(m, "lora_A")]))
"""


def test_a_lora_loads_in_diffusers_from_the_hub_it_was_published_to(trained: Cloudbooth) -> None:
    [base] = (trained.root / "state").glob("providers/local/host/bases/*/model_index.json")
    with running_writable_hub() as hub:
        published = Cloudbooth(trained.root, environ=hub.environ).run("publish", "bot", "hf", "--json")
        assert published.summary["where"] == f"{hub.endpoint}/photographer/bot"
        repo = hub.repos["photographer/bot"]
        assert repo.private
        assert "builtin:tiny" not in repo.files["README.md"].decode().split("---")[1], "the hub knows bases by its ids"
        environ = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(trained.root / "hub-cache"), "HF_HUB_DISABLE_XET": "1"}
        adapted = python_without_us(LOAD_LORA, trained.root, str(base.parent), "photographer/bot", hub.token, **environ)
        assert int(adapted) > 0
        assert hub.token not in json.dumps(published.lines) + published.stderr


def test_the_cog_folder_predicts_in_an_environment_without_us(trained: Cloudbooth) -> None:
    folder = trained.root / "bot-cog"
    published = trained.run("publish", "bot", "replicate:me/bot", "--json")
    assert published.summary["next"][-1].startswith("cog push r8.im/me/bot")
    config = yaml.safe_load((folder / "cog.yaml").read_text())
    assert set(config) == {"build", "predict", "image"}
    assert all("==" in package for package in config["build"]["python_packages"])
    subprocess.run([sys.executable, "-m", "ruff", "check", "-q", "--isolated", folder / "predict.py"], check=True)
    predict = """
from cog._inspector import create_predictor
from predict import Predictor
shown = create_predictor("predict", "Predictor")  # as cog looks at it while it builds
assert "prompt" in shown.inputs and shown.output.type.name == "PATH"
predictor = Predictor()
predictor.setup()
[picture] = predictor.predict("sks robot", "", 64, 64, 1, 2, 2.0, 7)
print(picture)
"""
    picture = Image.open(python_without_us(predict, folder, HF_HUB_OFFLINE="1"))
    assert (picture.format, picture.size) == ("PNG", (64, 64))


def test_programs_find_each_file_in_their_own_subfolder(trained: Cloudbooth) -> None:
    (trained.root / "webui" / "models").mkdir(parents=True)
    placed = trained.run("publish", "bot", f"a1111:{trained.root}/webui", "--json").summary["files"]
    assert placed[:2] == [
        f"{trained.root}/webui/models/Lora/bot-kohya.safetensors",
        f"{trained.root}/webui/models/Stable-diffusion/bot_2.safetensors",
    ]
    wrong = trained.run("publish", "bot", f"comfyui:{trained.root}/nowhere", check=2)
    assert "nowhere does not exist" in wrong.stderr
    assert ".safetensors" not in wrong.stderr, "as if it were copied"
    assert not (trained.root / "nowhere").exists()


def test_a_folder_holds_the_whole_model_under_its_name(trained: Cloudbooth) -> None:
    trained.run("publish", "bot", "./shelf")
    original = {
        path.relative_to(trained.models): path.read_bytes() for path in trained.models.rglob("*") if path.is_file()
    }
    shelf = trained.root / "shelf"
    assert {path.relative_to(shelf): path.read_bytes() for path in shelf.rglob("*") if path.is_file()} == original


def test_a_lora_is_written_in_kohyas_names_as_its_run_would_have_done_it(trained: Cloudbooth) -> None:
    made = trained.run("export", "bot", "--format", "kohya-lora", "--to", "exported", "--json").summary["files"]
    assert made == [f"{trained.root}/exported/bot-kohya.safetensors"]
    assert Path(made[0]).read_bytes() == (trained.models / "bot" / "bot-kohya.safetensors").read_bytes()
    again = trained.run("export", "bot", "--format", "lora", "--to", "exported", check=2)
    assert "exported exists already" in again.stderr
