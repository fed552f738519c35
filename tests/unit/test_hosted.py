"""The decisions behind a hosted job, each by itself: no service, no clock."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from orchestrator.hosted.archive import UnsafeArchive, unpack
from orchestrator.hosted.dataset_zip import write_dataset_zip
from orchestrator.hosted.lifecycle import DoJob, JobFacts, JobPhase, next_job_step
from orchestrator.hosted.log import fresh_part, steps_in
from orchestrator.hosted.output import as_diffusers_names
from orchestrator.hosted.plan import trigger_word
from orchestrator.hosted.safetensors_file import DamagedWeights, copy_renamed, read_header
from orchestrator.lifecycle import MOVES, EndReason, Finished, Move, Standing, State, Wish
from providers.errors import CloudboothError
from providers.jobs import Job, JobId, JobStatus, JobWish
from providers.replicate.mapping import choose_trainer, map_fields
from providers.replicate.trainers import TRAINERS, trainers_with
from remote_trainer.wire import ImageSpec
from tests.fakes.replicate import tar_of, zip_of
from tests.fakes.weights import flux_lora, safetensors_bytes, sdxl_processor_lora

JOB = Job(JobId("j"), "cb-1-bot-1-1", JobStatus.SUCCEEDED, "succeeded", 0.0, 1.0, 2.0, 1.0)

# ---- what happens next -----------------------------------------------------------------------------------------------

STATES = (State.PLANNED, State.PROVISIONING, State.TRAINING, State.RETRIEVING, State.RELEASING, State.ENDED)
FACTS = (
    JobFacts(), JobFacts(refused="no"), JobFacts(over_limit="limit"), JobFacts(gone="gone"), JobFacts(fetched=True),
    *(JobFacts(job=replace(JOB, status=status)) for status in JobStatus),
)  # fmt: skip


def test_every_move_is_legal_and_one_that_begins_the_end_names_its_reason() -> None:
    for state, wish, standing, facts in product(STATES, Wish, Standing, FACTS):
        step = next_job_step(state, wish, standing, facts)
        if isinstance(step, Move):
            assert step.to in MOVES[state], (state, wish, standing, facts)
            if step.to is State.RELEASING and state is not State.RETRIEVING:
                assert step.reason is not None


def test_a_run_never_ends_while_its_job_may_bill() -> None:
    for wish, standing, facts in product(Wish, (Standing.HELD, Standing.UNSETTLED), FACTS):
        assert next_job_step(State.RELEASING, wish, standing, facts) in (DoJob(JobPhase.CANCEL), DoJob(JobPhase.SETTLE))


def test_nothing_is_submitted_while_an_earlier_answer_is_not_settled() -> None:
    for wish, facts in product(Wish, FACTS):
        step = next_job_step(State.PROVISIONING, wish, Standing.UNSETTLED, facts)
        assert step != DoJob(JobPhase.SUBMIT)


def test_stop_does_not_throw_a_finished_model_away() -> None:
    done = JobFacts(job=JOB)
    step = next_job_step(State.TRAINING, Wish.STOP, Standing.ABSENT, done)
    assert isinstance(step, Move)
    assert (step.to, step.reason) == (State.RETRIEVING, EndReason.DONE)
    assert next_job_step(State.RETRIEVING, Wish.STOP, Standing.ABSENT, done) == DoJob(JobPhase.FETCH)


def test_an_ended_run_is_finished() -> None:
    assert next_job_step(State.ENDED, Wish.DOWN, Standing.ABSENT, JobFacts()) == Finished()


# ---- logs ------------------------------------------------------------------------------------------------------------

BAR = "bot:  12%|#2        | {done}/1000 [01:32<11:08,  {pace}, lr: 4.0e-04 loss: 4.125e-01]"


def test_a_bar_tells_step_loss_rate_and_pace() -> None:
    [step] = steps_in(BAR.format(done=120, pace="1.32it/s"), of=1000, after=0)
    assert (step.step, step.loss, step.lr, step.images_per_s) == (120, 0.4125, 4e-4, 1.32)


def test_seconds_a_step_become_steps_a_second() -> None:
    [step] = steps_in(BAR.format(done=120, pace="2.00s/it"), of=1000, after=0)
    assert step.images_per_s == 0.5


def test_a_bar_without_a_loss_says_nothing_about_one() -> None:
    [step] = steps_in("50%|##| 5/10 [00:01<00:01]", of=10, after=0)
    assert (step.loss, step.lr, step.images_per_s) == (None, None, None)


def test_bars_of_other_things_and_steps_already_told_are_passed_over() -> None:
    text = "\r".join(["1/24 [00:01<00:09, 2it/s]", *(BAR.format(done=n, pace="1it/s") for n in (3, 3, 4, 2, 5))])
    assert [step.step for step in steps_in(text, of=1000, after=3)] == [4, 5]


@pytest.mark.parametrize(
    ("known", "whole", "fresh"),
    [
        ("", "abc", "abc"),
        ("abc", "abcdef", "def"),
        ("abc", "", ""),
        ("abc", "abc", ""),
        ("0123456789", "6789xyz", "xyz"),
        ("0123456789", "0123", ""),
        ("x" * 900 + "0123", "x" * 500 + "0123new", "new"),
        ("abc", "other", "other"),
    ],
)
def test_what_is_new_in_a_log(known: str, whole: str, fresh: str) -> None:
    assert fresh_part(known, whole) == fresh


# ---- archives --------------------------------------------------------------------------------------------------------


def _tar_with(kind: bytes, name: str, target: str) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, target
        tar.addfile(entry)
        through = tarfile.TarInfo(f"{name}/passwd")
        through.size = 1
        tar.addfile(through, io.BytesIO(b"x"))
    return written.getvalue()


def _zip_with_link() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(entry, "/etc")
    return written.getvalue()


def _deflated_and_damaged() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("lora", bytes(range(256)) * 40)
    content = bytearray(written.getvalue())
    content[40:60] = b"\xff" * 20
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        _tar_with(tarfile.SYMTYPE, "out", "/etc"), _tar_with(tarfile.LNKTYPE, "out", "/etc/passwd"),
        _tar_with(tarfile.FIFOTYPE, "out", ""), tar_of({"a/../../b": b"x"}), tar_of({"/b": b"x"}),
        zip_of({"../b": b"x"}), zip_of({"c:\\b": b"x"}), _zip_with_link(), zip_of({"lora": b"x"})[:-30], b"",
        _deflated_and_damaged(), tar_of({"a" * 300: b"x"}), tar_of({"a\udcff": b"x"}), tar_of({"a\nb": b"x"}),
    ],
    # By itself pytest would take the shorter ones as names, and with them the second in which a zip was written.
    ids=[
        "symlink", "hardlink", "fifo", "tar up", "tar root", "zip up", "zip drive", "zip symlink", "cut off", "empty",
        "bad deflate", "long name", "no utf-8", "line break",
    ],
)  # fmt: skip
def test_nothing_leaves_the_folder_and_nothing_half_done_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_names_of_screenshots_are_names(tmp_path: Path) -> None:
    name = "captions/Screenshot at 9.41\u202fAM – Hündchen.txt"
    (tmp_path / "archive").write_bytes(tar_of({name: b"x"}))
    [member] = unpack(tmp_path / "archive", tmp_path / "out")
    assert (tmp_path / "out" / member.path).read_bytes() == b"x"


def test_a_zip_whose_content_does_not_match_its_checksum_is_damaged(tmp_path: Path) -> None:
    content = bytearray(zip_of({"lora.safetensors": b"0123456789" * 20}))
    content[60] ^= 1
    (tmp_path / "archive").write_bytes(bytes(content))
    with pytest.raises(UnsafeArchive, match="damaged"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_the_data_set_has_equal_bytes_for_equal_pictures(tmp_path: Path) -> None:
    (tmp_path / "000-a.png").write_bytes(b"picture")
    images = [ImageSpec("000-a.png", "0" * 64, 64, 64, None)]
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    for target in (first, second):
        write_dataset_zip(tmp_path, images, "a photo of sks dog", target)
        (tmp_path / "000-a.png").touch()
    assert first.read_bytes() == second.read_bytes()


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_older_names_become_those_that_diffusers_saves_now(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    source.write_bytes(sdxl_processor_lora())
    copy_renamed(source, target, as_diffusers_names)
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    tensors, _, _ = read_header(target)
    assert f"{layer}.to_q.lora_A.weight" in tensors
    assert f"{layer}.to_out.0.lora_B.weight" in tensors
    body = target.read_bytes()
    assert body.endswith(source.read_bytes()[-64:]), "the tensors themselves are untouched"


@pytest.mark.parametrize("cut", [slice(0, 4), slice(0, 60), slice(0, -1), slice(5, None)])
def test_a_file_that_is_not_whole_is_noticed(tmp_path: Path, cut: slice) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(flux_lora()[cut])
    with pytest.raises(DamagedWeights):
        read_header(path)


def test_two_tensors_do_not_get_one_name(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(safetensors_bytes({"a": (1, 1), "b": (1, 1)}))
    with pytest.raises(DamagedWeights, match="twice"):
        copy_renamed(path, tmp_path / "out", lambda _name: "c")


# ---- trainers --------------------------------------------------------------------------------------------------------


def test_the_base_chooses_the_trainer() -> None:
    assert choose_trainer(TRAINERS, None, "stabilityai/stable-diffusion-xl-base-1.0@main").model == "sdxl"
    assert choose_trainer(TRAINERS, None, None).model == "flux-dev-lora-trainer"


def test_a_base_that_no_trainer_adapts_is_an_error_that_names_what_can_be_had() -> None:
    with pytest.raises(CloudboothError, match="adapts me/my-base; those known here adapt black-forest-labs/FLUX"):
        choose_trainer(TRAINERS, None, "me/my-base")


def test_a_value_out_of_the_trainers_range_is_an_error_with_the_nearest_that_is_not() -> None:
    with pytest.raises(CloudboothError) as caught:
        map_fields(TRAINERS["fast-flux"], JobWish("bot", {"train.steps": 100}))
    assert caught.value.hint == "--set train.steps=500"


@pytest.mark.parametrize("method", ["full", "dora"])
def test_what_is_no_lora_is_an_error(method: str) -> None:
    with pytest.raises(CloudboothError, match="makes LoRAs"):
        map_fields(TRAINERS["sdxl"], JobWish("bot", {"train.method": method}))


def test_what_is_ignored_has_a_reason_and_defaults_are_not_spoken_of() -> None:
    wish = JobWish(
        "bot",
        {"train.steps": 500, "train.precision": "bf16", "train.weight_decay": 0.01},
        frozenset({"train.precision"}),
    )
    inputs, fields = map_fields(TRAINERS["sdxl"], wish)
    assert inputs["max_train_steps"] == 500
    assert [(field.key, bool(field.why)) for field in fields if not field.input] == [("train.precision", True)]


def test_the_config_file_lays_its_keys_over_ours() -> None:
    version = "a" * 64
    trainers = trainers_with({"trainers": {"sdxl": {"version": version}}})
    assert (trainers["sdxl"].version, trainers["sdxl"].owner) == (version, "stability-ai")


@pytest.mark.parametrize(
    ("table", "named"),
    [({"sdxl": {"version": "latest"}}, "trainers.sdxl.version"), ({"mine": {"owner": "me"}}, "trainers.mine.model"),
     ({"sdxl": {"vresion": "x"}}, "trainers.sdxl.vresion"), ({"sdxl": 1}, "trainers.sdxl")],
)  # fmt: skip
def test_a_wrong_key_in_the_config_file_is_named(table: dict[str, object], named: str) -> None:
    with pytest.raises(CloudboothError, match=named):
        trainers_with({"trainers": table})


@pytest.mark.parametrize(
    ("prompt", "kind", "word"),
    [
        ("a photo of sks dog", "a photo of a dog", "sks"),
        ("zwx style", None, "zwx"),
        ("a photo of a dog", "a photo of a dog", "dog"),
    ],
)
def test_the_trigger_is_the_rare_word(prompt: str, kind: str | None, word: str) -> None:
    assert trigger_word(prompt, kind) == word
