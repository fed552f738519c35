"""What a host said that cannot be understood, as an error with a way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.host import HostError
from providers.installation import upgrading
from remote_trainer.wire import WireError

HINT = f"upgrade cloudbooth on this laptop: a newer one may have started the run; {upgrading()}"


@contextmanager
def understood(source: str) -> Iterator[None]:
    """Turns WireError into HostError that names where the words came from."""
    try:
        yield
    except WireError as error:
        raise HostError(f"{source} cannot be understood: {error}", HINT) from error
