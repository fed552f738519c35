"""What a training has made, as one number."""

from __future__ import annotations

import hashlib
from pathlib import Path


def weights_sha256(model: Path) -> str:
    """The LoRA's tensors, by name: the file's metadata holds the run's name."""
    from safetensors.numpy import load_file

    [file] = model.glob("*.safetensors")
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        digest.update(name.encode() + tensor.tobytes())
    return digest.hexdigest()
