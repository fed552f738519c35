"""A machine of the user's own that answers SSH. Nothing connects here: options become an `SshAccess`."""

from __future__ import annotations

from providers.api import SshAccess
from providers.errors import CloudboothError
from providers.registry import ProviderContext
from providers.unbilled import UnbilledProvider

_EXAMPLE = '[compute.ssh]\nhost = "me@gpu-box"          # user@host, or an alias of ~/.ssh/config'
_KEYS = ("host", "port", "user", "identity_file", "python", "workdir")


class SshHostProvider(UnbilledProvider):
    """Options: `host` (required), `port`, `user`, `identity_file`, `python`, `workdir`: see `SshAccess`.

    Raises CloudboothError, with the TOML to write, for a missing host and for a value of the wrong kind.
    """

    name = "ssh"
    gpu = "unknown"

    def __init__(self, context: ProviderContext) -> None:
        super().__init__(context.state_folder)
        given = {key: value for key, value in context.options.items() if value is not None}
        unknown = sorted(set(given) - set(_KEYS))
        if unknown:
            raise CloudboothError(
                f"`compute.ssh.{unknown[0]}` means nothing to the provider ssh", f"it knows {', '.join(_KEYS)}"
            )
        if not given.get("host"):
            raise CloudboothError('`provider = "ssh"` needs to know the host', _EXAMPLE)
        self._access = SshAccess(
            host=_text(given["host"], "host"),
            port=_port(given.get("port")),
            user=_optional_text(given, "user"),
            identity_file=_optional_text(given, "identity_file"),
            python=_text(given.get("python", SshAccess.python), "python"),
            workdir=_text(given.get("workdir", SshAccess.workdir), "workdir"),
        )

    def access(self) -> SshAccess:
        return self._access


def _text(value: str | int, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CloudboothError(f"`compute.ssh.{key}` must be a text, is {value!r}", _EXAMPLE)
    return value


def _optional_text(options: dict[str, str | int], key: str) -> str | None:
    return _text(options[key], key) if key in options else None


def _port(value: str | int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not str(value).isdecimal() or not 1 <= int(value) <= 65535:
        raise CloudboothError(f"`compute.ssh.port` must be a number from 1 to 65535, is {value!r}", "port = 22")
    return int(value)
