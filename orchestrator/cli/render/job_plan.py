"""The plan of a hosted job for people: which settings arrive at the trainer, which do not and why, for how much."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.render.plan import facts_table, render_decisions, render_warnings, section
from orchestrator.hosted.plan import JobPlan
from orchestrator.ranges import Range, duration_range, usd, usd_range


def render_job_plan(plan: JobPlan, console: Console) -> None:
    """Prints the whole plan. Legible without color and at 80 columns; asks nothing."""
    console.print(f"[bold]Plan for {escape(plan.name)}[/]", highlight=False)
    section(console, "Subject", _subject(plan))
    section(console, "Job", _job(plan))
    section(console, "Settings", _settings(plan))
    if plan.decisions:
        section(console, "Decided for you", render_decisions(plan.decisions))
    render_warnings(plan.findings, plan.warnings, console)


def _subject(plan: JobPlan) -> Table:
    table = facts_table()
    table.add_row("prompt", escape(f'"{plan.instance_prompt}"'))
    own = f", {plan.captions} with a caption of their own" if plan.captions else ""
    table.add_row("photos", f"{len(plan.instance)}{own}, scaled to {plan.quote.resolution}² pixels, without metadata")
    table.add_row("base", escape(plan.quote.weights.base))
    table.add_row("model", escape(f"{plan.output_folder / plan.name}: {', '.join(plan.formats)}"))
    return table


def _job(plan: JobPlan) -> Table:
    quote = plan.quote
    table = facts_table()
    table.add_row("trainer", escape(f"{quote.trainer} on {quote.provider}, version {quote.version[:12]}…"))
    state = "" if quote.destination_exists else " (new, private)"
    table.add_row("result", escape(f"a version of {quote.destination}{state}, and here"))
    table.add_row("computes", f"{duration_range(Range(*quote.seconds))} on {quote.hardware}")
    table.add_row("price", f"${quote.usd_per_s:g}/s (${quote.usd_per_s * 3600:.2f}/h) while it computes")
    table.add_row("cost", usd_range(plan.cost_usd))
    table.add_row("canceled at", f"{usd(plan.limit_s * quote.usd_per_s)}, of {usd(plan.max_cost_usd)} at most")
    return table


def _settings(plan: JobPlan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in ("spec", "value", "trainer's input"):
        table.add_column(title, overflow="fold")
    for field in plan.quote.fields:
        table.add_row(field.key, escape(field.value), field.input or f"[yellow]ignored[/]: {escape(field.why)}")
    mapped = {field.input for field in plan.quote.fields}
    for name, value in plan.quote.inputs.items():
        if name not in mapped:
            table.add_row("", escape(str(value)), f"{escape(name)} [dim](always)[/]")
    return table
