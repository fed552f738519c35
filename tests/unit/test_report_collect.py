from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.base_model import job_base
from orchestrator.errors import UsageError
from orchestrator.host import HostError
from orchestrator.lifecycle import State
from orchestrator.plan_json import plan_to_data
from orchestrator.rental import ProviderTerms
from orchestrator.report.collect import collect
from orchestrator.report.contents import Report
from orchestrator.report.history import AFTERWARDS
from orchestrator.report.recorded_plan import RecordedPlan, stated_guidance
from orchestrator.report.usage import model_files
from remote_trainer import wire
from tests.unit.plans import rented
from tests.unit.recorded_run import CEILING_USD, PROMPTS, RecordedRun


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedRun:
    return RecordedRun(tmp_path)


def report_of(recorded: RecordedRun) -> Report:
    return collect(recorded.ledger, recorded.run_home, recorded.name, recorded.clock.now())


def finished(recorded: RecordedRun) -> Report:
    recorded.begin()
    recorded.interrupt()
    recorded.finish()
    return report_of(recorded)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of one finished run that nothing changes: writing it takes a second on a busy disk."""
    return finished(RecordedRun(tmp_path_factory.mktemp("done")))


def test_an_unknown_run_is_an_error_with_the_nearest_name(recorded: RecordedRun) -> None:
    with pytest.raises(UsageError) as caught:
        collect(recorded.ledger, recorded.home.run("dgo"), "dgo", 0.0)
    assert "dog" in caught.value.hint


def test_a_run_that_has_only_been_planned_has_a_report(recorded: RecordedRun) -> None:
    report = report_of(recorded)
    assert (report.state, report.step, report.of, report.machines) == ("planned", 0, 400, ())


def test_steps_made_again_after_an_interruption_count_once(done: Report) -> None:
    steps = [point.step for point in done.steps]
    assert steps == sorted(set(steps))
    assert steps[-1] == 400


def test_samples_are_grouped_by_prompt_and_ordered_by_step(done: Report) -> None:
    samples = done.samples
    assert [(series.prompt, [s.step for s in series.samples]) for series in samples] == [
        (PROMPTS[0], [0, 200, 400]),
        (PROMPTS[1], [0, 400]),
    ]


@pytest.mark.parametrize("path", ["../../../secret.png", "job.png", "validation/../../secret.png", "/etc/hostname"])
def test_a_host_cannot_show_a_picture_from_outside_the_folder_of_pictures(recorded: RecordedRun, path: str) -> None:
    outside = (recorded.run_home.root / wire.VALIDATION_FOLDER / path).resolve()
    if not outside.exists():
        outside.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(outside)
    recorded.write_events("bad", [(0, wire.SampleMade(1, "p", wire.FileEntry(path, 1, "0" * 64)))])
    assert report_of(recorded).samples == ()


def test_a_link_to_elsewhere_is_no_picture(recorded: RecordedRun, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    folder = recorded.run_home.root / wire.VALIDATION_FOLDER
    folder.mkdir()
    (folder / "00.png").symlink_to(tmp_path / "private.png")
    recorded.write_events("bad", [(0, wire.SampleMade(1, "p", wire.FileEntry("validation/00.png", 1, "0" * 64)))])
    assert report_of(recorded).samples == ()


def test_money_by_phase_and_by_attempt_adds_up_to_what_was_spent(done: Report) -> None:
    money = done.money
    assert sum(share.usd for share in money.by_phase) == pytest.approx(money.spent_usd)
    assert sum(share.usd for share in money.by_attempt) == pytest.approx(money.spent_usd)
    assert money.by_phase[0].label == "training"
    assert money.ceiling_usd == CEILING_USD
    assert money.quote is not None
    assert money.quote.expected == 0.31


def test_a_provider_s_bill_is_shared_out_over_the_phases(recorded: RecordedRun) -> None:
    finished(recorded)
    recorded.ledger.record_bill("cb-two", 0.15)
    report = report_of(recorded)
    assert report.machines[1].is_billed
    assert report.machines[1].cost_usd == 0.15
    assert sum(share.usd for share in report.money.by_phase) == pytest.approx(report.money.spent_usd)


def test_a_machine_that_outlives_its_run_costs_after_the_end(recorded: RecordedRun) -> None:
    finished(recorded)
    recorded.clock.sleep(3600)
    recorded.ledger.confirm_absent("cb-two")
    money = report_of(recorded).money
    assert next(share.usd for share in money.by_phase if share.label == AFTERWARDS) == pytest.approx(0.48)


def test_machines_tell_their_gpu_and_why_they_ended(done: Report) -> None:
    one, two = done.machines
    assert (one.gpu, one.market, one.ended_why.partition(":")[0]) == ("RTX 3090", "spot", "pre-empted")
    assert (two.gpu, two.market, two.ended_why) == ("RTX 4090", "on-demand", "given back: the run was done")


def test_states_follow_each_other_without_a_gap_and_interruptions_are_marked(done: Report) -> None:
    spans = done.spans
    assert all(before.end == after.start for before, after in itertools.pairwise(spans))
    assert [span.state for span in spans if span.is_interruption] == ["recovering"]


def test_the_time_before_a_resume_belongs_to_no_state(recorded: RecordedRun) -> None:
    before_s = finished(recorded).active_s
    recorded.clock.sleep(86_400)
    recorded.ledger.start_attempt(recorded.name, recorded.epoch)
    recorded.clock.sleep(10)
    report = report_of(recorded)
    assert report.active_s == pytest.approx(before_s + 10)
    assert (report.spans[-1].state, report.spans[-1].attempt) == (State.PLANNED.value, 2)


def test_phases_are_timed_by_each_host_s_own_clock(done: Report) -> None:
    phases = {phase.name: phase.seconds for phase in done.host_phases}
    assert phases["environment"] == 90
    assert phases["load"] == 44 + 60


def test_hints_name_the_run(done: Report) -> None:
    hints = [notice.hint for notice in done.notices]
    assert "`cloudbooth pull dog` brings home what is there" in hints


def test_a_run_that_nobody_follows_says_so(recorded: RecordedRun) -> None:
    recorded.begin()
    first = report_of(recorded).notices[0]
    assert first.is_failure
    assert "cloudbooth attach dog" in first.hint


def test_failures_come_before_warnings_the_newest_first(recorded: RecordedRun) -> None:
    finished(recorded)
    recorded.write_events("third", [(0, wire.Failed("disk-full", "old", "")), (1, wire.Failed("diverged", "new", "h"))])
    assert [notice.message for notice in report_of(recorded).notices][:2] == ["new", "old"]


def test_what_opens_the_model_follows_from_its_files(done: Report) -> None:
    diffusers, kohya = done.model_files
    assert "load_lora_weights" in diffusers.example
    assert "revision='451f4fe1'" in diffusers.example
    assert "ComfyUI" in kohya.opens_in


def test_the_code_asks_for_the_guidance_that_the_spec_states(done: Report, tmp_path: Path) -> None:
    assert "guidance_scale" not in done.model_files[0].example
    (tmp_path / "bot.safetensors").touch()
    [file] = model_files(tmp_path, "a dog", "me/base", stated_guidance('{"train": {"validation_guidance_scale": 1.0}}'))
    assert "pipe('a dog', guidance_scale=1.0)" in file.example


def test_versions_come_from_beside_the_model(done: Report) -> None:
    assert {setting.key: setting.value for setting in done.environment}["torch"] == "2.9.0+cu128"


def test_what_was_deleted_is_left_out(recorded: RecordedRun) -> None:
    finished(recorded)
    shutil.rmtree(recorded.output)
    shutil.rmtree(recorded.run_home.root)
    report = report_of(recorded)
    assert (report.model_files, report.samples, report.photos, report.places) == ((), (), (), ())


def test_a_mirror_of_a_newer_version_is_an_error_with_a_way_out(recorded: RecordedRun) -> None:
    recorded.run_home.events("new").write_text('{"v": 99, "seq": 0, "t": 0, "type": "hello"}\n')
    with pytest.raises(HostError, match="version 99") as caught:
        report_of(recorded)
    assert "upgrade" in caught.value.hint


def test_a_real_plan_is_read() -> None:
    made = rented(ProviderTerms())
    plan = RecordedPlan.of_json(json.dumps(plan_to_data(made)))
    assert made.rental is not None
    assert plan.quote_usd == made.rental.quote.cost_usd
    assert plan.ceiling_usd == made.max_cost_usd
    assert (plan.base, plan.method, plan.steps) == (job_base(made.base), made.train.method, made.train.steps)
    assert plan.decisions == made.decisions
    assert [warning.message for warning in plan.warnings] == [warning.message for warning in made.warnings]


@pytest.mark.parametrize("text", ["{}", "[]", "null", "not JSON", '{"train": 3, "rental": {"quote": []}}'])
def test_half_a_plan_is_better_than_none(text: str) -> None:
    assert RecordedPlan.of_json(text).quote_usd is None
