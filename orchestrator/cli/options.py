"""Options that several verbs share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from orchestrator.hints import hint_for
from providers.errors import CloudboothError

if TYPE_CHECKING:
    from orchestrator.trackers.api import Target  # it would load what `--help` does without

F = TypeVar("F", bound=Callable[..., Any])


def run_argument(function: F) -> F:
    """RUN, the name of a known run, completed from the ledger; hints of errors are given that name."""
    return _run_argument(function, required=True)


def optional_run_argument(function: F) -> F:
    """The same where None stands for something else."""
    return _run_argument(function, required=False)


def _run_argument(function: F, *, required: bool) -> F:
    @wraps(function)
    def named(*args: Any, run: str | None, **kwargs: Any) -> Any:
        try:
            return function(*args, run=run, **kwargs)
        except CloudboothError as error:
            error.hint = hint_for(run, error.hint) if run is not None else error.hint
            raise

    metavar = "RUN" if required else "[RUN]"
    return cast(F, click.argument("run", metavar=metavar, required=required, shell_complete=_complete_run)(named))


def from_store_options(function: F) -> F:
    """`--from` and `--endpoint-url`: a run as its store knows it."""
    function = click.option(
        "--endpoint-url", metavar="URL", help="Of that store, if it is S3 but not AWS; else AWS_ENDPOINT_URL_S3."
    )(function)
    return click.option(
        "--from", "url", metavar="URL", help="The run in its store (…/runs/NAME), or the store: s3://bucket/prefix."
    )(function)


def json_option(function: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, one object a line; the last is the summary."
    )(function)


PLAIN_VARIABLE = "CLOUDBOOTH_PLAIN"
_PLAIN_KEY = "cloudbooth.plain"


def plain_option(function: F) -> F:
    """`--plain`, also by its variable, for verbs that show a run while it lasts; ask `plain_is_wanted`."""

    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        context.meta[_PLAIN_KEY] = value

    return click.option(
        "--plain",
        is_flag=True,
        envvar=PLAIN_VARIABLE,
        expose_value=False,
        callback=remember,
        help=f"Lines only, nothing drawn anew, no color: for screen readers. {PLAIN_VARIABLE}=1 does it always.",
    )(function)


def profile_option(function: F) -> F:
    """`--profile`, for verbs that read a spec; see `of_profile`."""
    return click.option(
        "--profile",
        metavar="NAME",
        envvar="CLOUDBOOTH_PROFILE",
        help="Settings of that name in config.toml, as if they were flags. CLOUDBOOTH_PROFILE does it always.",
    )(function)


def of_profile(name: str | None) -> tuple[str, ...]:
    """The profile as `--set` values; none without a name."""
    if not name:
        return ()
    from orchestrator.home import Home
    from orchestrator.user_config import profile_overrides

    return profile_overrides(Home.of_environment().config_file, name)


def notify_option(function: F) -> F:
    """`--notify`, also by its variable, which processes that are left in the background inherit."""

    def remember(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        from orchestrator.notify import VARIABLE, targets_of

        targets_of(value or "")
        if value:
            os.environ[VARIABLE] = value

    return click.option(
        "--notify",
        metavar="desktop|URL",
        envvar="CLOUDBOOTH_NOTIFY",
        expose_value=False,
        callback=remember,
        help="Tell when the run ends or needs you; several with commas between. CLOUDBOOTH_NOTIFY does it always.",
    )(function)


class Amount(click.FloatRange):
    """Dollars or hours: `nan` and `inf` bound nothing, though Python reads them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        amount: float = super().convert(value, param, ctx)
        if not math.isfinite(amount):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return amount


_LOG_TO_KEY = "cloudbooth.log_to"


def log_to_option(function: F) -> F:
    """`--log-to`, for verbs that drive a run; ask `wanted_targets`."""

    def remember(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value:
            from orchestrator.trackers.api import require_installed, targets_of

            context.meta[_LOG_TO_KEY] = targets_of(value)
            for target in context.meta[_LOG_TO_KEY]:
                require_installed(target.kind)

    return click.option(
        "--log-to",
        metavar="wandb|trackio[:PROJECT]",
        envvar="CLOUDBOOTH_LOG_TO",
        expose_value=False,
        callback=remember,
        help="Log curves and pictures there, from this laptop; several with commas. CLOUDBOOTH_LOG_TO does it always.",
    )(function)


def wanted_targets() -> tuple[Target, ...]:
    """What `--log-to` of the verb that is running says; empty without."""
    targets: tuple[Target, ...] = click.get_current_context().meta.get(_LOG_TO_KEY, ())
    return targets


def plain_is_wanted() -> bool:
    """Whether the verb that is running was asked for plain lines."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_PLAIN_KEY))


def _complete_run(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from orchestrator.wiring import wire_up

    return [run.name for run in wire_up().ledger.runs() if run.name.startswith(incomplete)]
