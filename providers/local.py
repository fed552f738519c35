"""The machine that cloudbooth itself runs on."""

from __future__ import annotations

import sys

from providers.api import ThisMachine
from providers.registry import ProviderContext
from providers.unbilled import UnbilledProvider


class LocalProvider(UnbilledProvider):
    name = "local"
    gpu = "this machine"

    def __init__(self, context: ProviderContext) -> None:
        super().__init__(context.state_folder)
        self._workdir = context.state_folder / "host"

    def access(self) -> ThisMachine:
        return ThisMachine(python=sys.executable, workdir=str(self._workdir))
