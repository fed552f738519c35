"""Serves one trained model with cog. Everything it needs to know stands in model.json beside it."""

import json
import random
from pathlib import Path as FilePath

import torch
from cog import BasePredictor, Input, Path

HERE = FilePath(__file__).resolve().parent
MODEL = json.loads((HERE / "model.json").read_text())


class Predictor(BasePredictor):
    def setup(self) -> None:
        """Loads the pipeline once; the base comes out of the image, where it was put while that was built."""
        from diffusers import DiffusionPipeline

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        source = str(HERE / MODEL["weights"]) if MODEL["kind"] == "diffusers" else MODEL["base"]
        self.pipeline = DiffusionPipeline.from_pretrained(
            source, torch_dtype=dtype, revision=MODEL["revision"], cache_dir=str(HERE / "base-cache")
        ).to(device)
        if MODEL["kind"] == "lora":
            weights = HERE / MODEL["weights"]
            self.pipeline.load_lora_weights(str(weights.parent), weight_name=weights.name)

    def predict(
        self,
        prompt: str = Input(description="What to show", default=MODEL["prompt"]),
        negative_prompt: str = Input(description="What not to show", default=""),
        width: int = Input(description="Pixels", default=MODEL["resolution"], ge=64, le=2048),
        height: int = Input(description="Pixels", default=MODEL["resolution"], ge=64, le=2048),
        num_outputs: int = Input(description="How many pictures", default=1, ge=1, le=4),
        num_inference_steps: int = Input(description="Denoising steps", default=28, ge=1, le=150),
        guidance_scale: float = Input(description="Closeness to the prompt", default=MODEL["guidance"], ge=0, le=20),
        seed: int = Input(description="Of the first picture; -1 picks one", default=-1),
    ) -> list[Path]:
        """PNG files, at seeds in a row."""
        first = random.randrange(2**31) if seed < 0 else seed
        paths = []
        for number in range(num_outputs):
            options = {"negative_prompt": negative_prompt} if negative_prompt else {}
            image = self.pipeline(
                prompt,
                width=width,
                height=height,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=torch.Generator("cpu").manual_seed(first + number),
                **options,
            ).images[0]
            path = Path(f"/tmp/{first + number}.png")
            image.save(path)
            paths.append(path)
        return paths
