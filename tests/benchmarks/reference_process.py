"""Runs one of diffusers' DreamBooth scripts as it stands, in a process of its own, and writes down what every step did.

    python reference_process.py SCRIPT.py RECORD.jsonl KEYED.json -- ARGUMENTS OF THE SCRIPT

Each line of the record: the step's loss, and the wall and processor seconds of this process when the step was done.
With KEYED.json (else `-`) the script trains on our draws and in our order of pictures, from our first LoRA matrices:
then its losses can be compared with ours number by number. Nothing of the script itself is changed; what it imports
is, in this process only.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import accelerate
import torch
from PIL import Image


def main(script: str, record: str, keyed: str, arguments: list[str]) -> None:
    if importlib.util.find_spec("torchvision") is None:
        import transformers.utils

        assert not transformers.utils.is_torchvision_available()
        sys.modules["torchvision"] = _torchvision()
    with open(record, "w") as lines:
        reference = _load(script)
        reference.Accelerator = _recording(lines)
        if keyed != "-":
            _key(reference, SimpleNamespace(**json.loads(Path(keyed).read_text())))
        sys.argv = [script, *arguments]
        reference.args = reference.parse_args()  # one of the scripts reads it as a global
        reference.main(reference.args)


def _load(script: str) -> Any:
    spec = importlib.util.spec_from_file_location("reference", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _recording(lines: Any) -> type[accelerate.Accelerator]:
    class Recording(accelerate.Accelerator):
        """The scripts log once a step, with the loss, when the step is over."""

        def init_trackers(self, *_: Any, **__: Any) -> None:
            pass

        def log(self, values: dict[str, float], *_: Any, **__: Any) -> None:
            done = {"loss": values["loss"], "wall_s": time.monotonic(), "cpu_s": time.process_time()}
            lines.write(json.dumps(done) + "\n")
            lines.flush()

    return Recording


def _key(reference: Any, run: SimpleNamespace) -> None:
    """run: seed, batch_size, latent_shape, instance (files), class_ (files, may be empty), lora_rank (or None)."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from remote_trainer.dataset.order import BatchOrder
    from remote_trainer.draws import Draws, draw, generator

    step = 0
    drawn: Draws

    def sample(self: Any, **_: Any) -> torch.Tensor:
        """The first draw of every step."""
        nonlocal step, drawn
        step += 1
        drawn = draw(run.seed, step, 0, 0, len(self.mean), tuple(run.latent_shape), 1000)
        return self.mean + self.std * drawn.posterior_noise

    class Keyed:
        """`torch` with our noise and timesteps."""

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def randn_like(self, _: torch.Tensor) -> torch.Tensor:
            return drawn.noise

        def randint(self, *_: Any, **__: Any) -> torch.Tensor:
            return drawn.timesteps

    DiagonalGaussianDistribution.sample = sample
    reference.torch = Keyed()

    orders = {
        label: BatchOrder([(0,)] * len(files), run.batch_size, run.seed, label)
        for label, files in (("instance", run.instance), ("class", run.class_))
        if files
    }
    fetched = 0
    as_it_was = reference.DreamBoothDataset.__getitem__

    def in_our_order(self: Any, _: int) -> Any:
        """The loader asks for one picture after the other, whatever indices its own shuffling draws."""
        nonlocal fetched
        position, place = divmod(fetched, run.batch_size)
        fetched += 1
        self.instance_images_path = [Path(run.instance[orders["instance"].batch(position)[place]])]
        self.num_instance_images = 1
        if run.class_:
            self.class_images_path = [Path(run.class_[orders["class"].batch(position)[place]])]
            self.num_class_images = 1
        return as_it_was(self, 0)

    reference.DreamBoothDataset.__getitem__ = in_our_order

    add_adapter = UNet2DConditionModel.add_adapter

    def add_ours(self: Any, *arguments: Any, **options: Any) -> None:
        add_adapter(self, *arguments, **options)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if ".lora_A." in name:
                    unit = torch.rand(parameter.shape, generator=generator("lora", run.seed, name))
                    parameter.copy_((2.0 * unit - 1.0) * parameter.shape[1] ** -0.5)

    UNet2DConditionModel.add_adapter = add_ours


def _torchvision() -> ModuleType:
    """The five transforms that the scripts ask for, where no torchvision fits the installed torch.

    Pictures here have the training size already, so none is resized or cropped.
    """

    class Compose:
        def __init__(self, steps: list[Any]) -> None:
            self._steps = steps

        def __call__(self, value: Any) -> Any:
            for step in self._steps:
                value = step(value)
            return value

    class Sized:
        def __init__(self, size: int, **_: Any) -> None:
            self._size = size

        def __call__(self, image: Image.Image) -> Image.Image:
            assert image.size == (self._size, self._size)
            return image

    class ToTensor:
        def __call__(self, image: Image.Image) -> torch.Tensor:
            import numpy as np

            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)

    class Normalize:
        def __init__(self, mean: list[float], std: list[float]) -> None:
            self._mean, self._std = mean[0], std[0]

        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            return (pixels - self._mean) / self._std

    package = ModuleType("torchvision")
    package.__spec__ = importlib.util.spec_from_loader("torchvision", None)
    package.transforms = SimpleNamespace(  # type: ignore[attr-defined]
        Compose=Compose, Resize=Sized, CenterCrop=Sized, RandomCrop=Sized, ToTensor=ToTensor, Normalize=Normalize,
        InterpolationMode=SimpleNamespace(BILINEAR=2, LANCZOS=1),
    )  # fmt: skip
    sys.modules["torchvision.transforms"] = package.transforms
    return package


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[sys.argv.index("--") + 1 :])
