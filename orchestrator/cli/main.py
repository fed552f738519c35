"""The command `cloudbooth`. Verbs are loaded when they are called, so that help and completion are instant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

VERBS: dict[str, tuple[str, str]] = {
    "init": ("init", "Write a spec from photos and three questions."),
    "plan": ("launch", "Show everything a launch would do, and start nothing."),
    "launch": ("launch", "Train a model from photos: plan, confirm, run."),
    "dataset": ("dataset", "Check photos before training, and cut them to size."),
    "ps": ("ps", "List runs, what may still cost money first."),
    "status": ("watch", "Show one run in detail."),
    "logs": ("watch", "Print a run's events or the trainer's output."),
    "report": ("report", "Write one run as a web page that stands alone."),
    "attach": ("watch", "Watch a run; carry it on if its process has died."),
    "generate": ("generate", "Make pictures with a run's model."),
    "export": ("export", "Write a run's model in other formats."),
    "publish": ("publish", "Take a run's model to a store, a hub, Replicate or a program."),
    "pull": ("control", "Fetch what a run has made so far."),
    "stop": ("control", "Checkpoint, bring it home, give the machine back."),
    "down": ("control", "Give the machine back now, without a checkpoint."),
    "resume": ("control", "Continue a run from its newest checkpoint."),
    "forget": ("forget", "Remove a run that is over, and free its name."),
    "gpus": ("gpus", "Show what can be rented now, all providers side by side."),
    "tokens": ("tokens", "List tokens that a base hardly knows, to name a subject with."),
    "gc": ("gc", "Find machines no run answers for, and give them back."),
    "doctor": ("doctor", "Check everything a run needs, and rent nothing."),
    "schema": ("schema", "Print what the lines of --json look like, as JSON Schema."),
    "at-login": ("at_login", "Have runs carried on after a reboot of this laptop."),
    "completion": ("completion", "Print the shell's completion script."),
}
"""Verb → (module of `orchestrator.cli`, the line in the help)."""


class LazyGroup(click.Group):
    """Knows its verbs by name; imports one module when one is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"orchestrator.cli.{VERBS[name][0]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs by name and line: click's own would load every one of them for its help, at every Tab."""
        verbs = [CompletionItem(name, help=text) for name, (_, text) in VERBS.items() if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, n=1)
            meant = f", did you mean `{close[0]}`?" if close else ""
            raise click.UsageError(f"there is no command `{args[0]}`{meant}", ctx) from None


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CLOUDBOOTH"},
    epilog='Example: cloudbooth launch photos/ --subject "sks dog"',
)
@click.version_option(package_name="cloudbooth", message="cloudbooth %(version)s")
def cli() -> None:
    """Turn 5-20 photos of a subject into a text-to-image model that knows it."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with one of the documented codes (docs/cli.md)."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """`main` without the exit, for callers that are Python."""
    code = _run(argv)
    if code != 0 or not {"-h", "--help", "--version"} & set(sys.argv if argv is None else argv):
        from orchestrator.cli.billing import warn_of_bills
        from orchestrator.cli.sweep import sweep

        sweep()
        warn_of_bills()
    return code


def _run(argv: Sequence[str] | None) -> int:
    as_json = "--json" in (sys.argv if argv is None else argv)
    try:
        result = cli.main(args=None if argv is None else list(argv), prog_name="cloudbooth", standalone_mode=False)
        return int(result or 0)
    except click.exceptions.Exit as end:
        return int(end.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
        return 130
    except click.ClickException as error:
        from orchestrator.cli.failure import say

        context = getattr(error, "ctx", None)
        hint = f"`{context.command_path} --help` shows what it takes" if context is not None else ""
        return say(error.format_message().rstrip("."), hint, int(error.exit_code), as_json=as_json)
    except BrokenPipeError:
        from orchestrator.cli.render.pipe import point_to_nowhere

        point_to_nowhere(sys.stdout)  # the reader (head, less) has seen enough
        return 0
    except Exception as error:
        from orchestrator.cli.failure import explain

        return explain(error, as_json=as_json)


if __name__ == "__main__":
    main()
