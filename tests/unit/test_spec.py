from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.spec import (
    DEFAULT_BASE,
    RunSpec,
    slug,
    spec_from_json,
    spec_to_json,
)
from orchestrator.spec_data import GeneratedClassImages, NoClassImages, PictureFolder
from orchestrator.spec_file import load_spec, spec_from_photos

EXAMPLES = Path(__file__).parents[2] / "examples"
SPECS = sorted(path for path in EXAMPLES.rglob("*.toml") if path.name != "pyproject.toml")

MINIMAL = """
[subject]
instance_prompt = "a photo of sks dog"
[data]
instance = "photos"
"""

FULL = """
name = "my-dog"
[subject]
instance_prompt = "a photo of sks dog"
class_prompt = "a photo of a dog"
[data]
instance = "photos"
regularization = "generate:20"
[model]
base = "owner/name@main"
[train]
method = "full"
steps = 40
learning_rate = 0.30000000000000004
validation_prompts = ["a", "b"]
min_snr_gamma = 5
[compute]
provider = "ssh"
market = "on-demand"
gpu = ["RTX 4090", "RTX A5000"]
min_vram_gb = 24
max_price_per_hour = 0.6
disk_gb = 40
trust = "secure"
allow_cpu = true
[compute.ssh]
host = "me@gpu-box"
port = 2222
identity_file = "~/.ssh/id_ed25519"
python = "python3.12"
workdir = "~/work"
[limits]
max_cost_usd = 2
max_hours = 1.5
rescue_hours = 24
wait_for_laptop_minutes = 10
[output]
folder = "out"
formats = ["diffusers"]
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = tmp_path / "my-dog.toml"
        path.write_text(text, "utf-8")
        return path

    return to_file


Write = Callable[[str], Path]


def refusal(of: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        of()
    return f"{caught.value.message}\n\nhint: {caught.value.hint}\n"


def test_shards_need_several_gpus() -> None:
    one, two = (["train.fsdp=true", "train.method=full", f"compute.gpu_count={count}"] for count in (1, 2))
    said = refusal(lambda: spec_from_photos(Path("/photos"), "sks dog", one))
    assert "compute.gpu_count=2" in said
    assert spec_from_photos(Path("/photos"), "sks dog", two).train.fsdp


# ---- what a spec means ---------------------------------------------------------------------------------------------


def test_two_keys_are_a_whole_spec(write: Write, tmp_path: Path) -> None:
    spec = load_spec(write(MINIMAL))
    assert spec.name == "my-dog"
    assert spec.model.base == DEFAULT_BASE
    assert spec.data.class_images == NoClassImages()
    assert spec.data.instance == tmp_path / "photos"
    assert spec.output.folder == tmp_path / "models"
    assert spec.limits.max_cost_usd == 5.0
    assert spec.train.method == "lora"


def test_what_follows_from_other_keys_is_known_as_filled_in_and_makes_no_other_spec(write: Write) -> None:
    left_open, stated = MINIMAL + '[model]\nbase = "builtin:tiny"\n', "[train]\nresolution = 64\n"
    spec = load_spec(write(left_open))
    assert spec.filled_in == {"train.resolution"}
    assert spec == load_spec(write(left_open + stated)) == spec_from_json(spec_to_json(spec))
    assert not load_spec(write(left_open + stated)).filled_in
    assert not load_spec(write(MINIMAL)).filled_in


WRONG_ALL_OVER = """
[subject]
instance_prompt = 3
[train]
stepz = 4
method = "full"
debiased_estimation = true
min_snr_gamma = 5
[compute]
provider = "runpood"
gpu_count = 99
machine = "m-1"
volume = "v-1"
[output]
formats = ["kohya-lora"]
"""


def test_a_rule_between_keys_is_told_with_the_mistakes_of_other_keys(write: Write) -> None:
    told = [line.strip() for line in refusal(lambda: load_spec(write(WRONG_ALL_OVER))).splitlines()]
    assert 'compute.provider: there is no provider "runpood", did you mean runpod; installed are' in "\n".join(told)
    assert "data.instance: missing" in told
    assert "train.stepz: unknown key, did you mean train.steps" in told
    assert any(line.startswith("subject.instance_prompt: must be text") for line in told)
    assert any(line.startswith("compute.gpu_count: must be at most 8") for line in told)
    assert any(line.startswith("train.min_snr_gamma and train.debiased_estimation") for line in told)
    assert any(line.startswith('output.formats: "kohya-lora" does not apply') for line in told)


def test_several_rules_of_the_whole_spec_are_told_at_once(write: Write) -> None:
    told = refusal(lambda: load_spec(write(MINIMAL), ["train.fsdp=true", "data.regularization=generate:9"]))
    assert "data.regularization needs subject.class_prompt" in told
    assert "train.fsdp does not go with" in told


@pytest.mark.parametrize("wrong", ["compute.ssh=4", "compute.ssh={host=4}", 'compute.ssh={hots="gpu-box"}'])
def test_a_rule_that_a_wrong_key_may_have_broken_is_left_for_later(wrong: str, write: Write) -> None:
    told = refusal(lambda: load_spec(write(MINIMAL), ["compute.provider=ssh", wrong]))
    assert "needs a host" not in told


def test_what_a_file_would_have_said_is_not_called_missing(write: Write) -> None:
    spec = MINIMAL.replace('instance = "photos"', 'dataloader = "not-there.json"')
    told = refusal(lambda: load_spec(write(spec), ["train.steps=-1"]))
    assert "not-there.json" in told
    assert "train.steps: must be at least" in told
    assert "missing" not in told


def test_a_nul_in_any_text_is_told_with_its_key(write: Write) -> None:
    told = refusal(lambda: load_spec(write(MINIMAL.replace("photos", "pho\\u0000tos")), ['compute.gpu=["a\\u0000"]']))
    assert "data.instance: must not hold the character U+0000" in told
    assert "compute.gpu[0]: must not hold the character U+0000" in told


def test_class_images_of_one_of_several_subjects_are_told_by_the_key_that_was_written(write: Write) -> None:
    subject = '[[subject]]\ninstance_prompt = "a"\ninstance = "photos"\nregularization = 4\n'
    assert "subject[0].regularization: must be text" in refusal(lambda: load_spec(write(subject)))


@pytest.mark.parametrize("host", ["a b", "-oProxyCommand=x", "me@"])
def test_what_cannot_be_a_host_says_what_can(host: str, write: Write) -> None:
    told = refusal(lambda: load_spec(write(MINIMAL), ["compute.provider=ssh", f'compute.ssh.host="{host}"']))
    assert f'compute.ssh.host: must be an alias of ~/.ssh/config, a host name or user@host, is "{host}"' in told
    assert "hint: `--host me@gpu-box`" in told


def test_a_gpu_without_a_name_is_none(write: Write) -> None:
    assert "compute.gpu[0]: must not be empty" in refusal(lambda: load_spec(write(MINIMAL), ['compute.gpu=[""]']))


def test_one_refused_file_keeps_its_own_words(write: Write) -> None:
    spec = MINIMAL.replace('instance = "photos"', 'instance = "photos"\ndataloader = "a.json"')
    assert refusal(lambda: load_spec(write(spec))).startswith("data.dataloader names the photos already\n\nhint: leave")


def test_the_size_of_a_set_is_stated_too(write: Write) -> None:
    one_set = '[model]\nbase = "builtin:tiny"\n[[data.sets]]\nid = "a"\npictures = "a"\nprompt = "b"\nresolution = 64\n'
    spec = load_spec(write(one_set))
    assert (spec.train.resolution, spec.filled_in) == (64, frozenset())


def test_paths_belong_to_the_folder_of_the_spec(write: Write, tmp_path: Path) -> None:
    text = MINIMAL.replace('"photos"', '"../photos"\nregularization = "class/"') + '[output]\nfolder = "."\n'
    spec = load_spec(write(text.replace("[data]", 'class_prompt = "a dog"\n[data]')))
    assert spec.data.instance == tmp_path.parent / "photos"
    assert spec.data.class_images == PictureFolder(tmp_path / "class")
    assert spec.output.folder == tmp_path


def test_paths_of_flags_belong_to_the_current_folder(write: Write) -> None:
    spec = load_spec(write(MINIMAL), ["data.instance=elsewhere", "output.folder=~/out"])
    assert spec.data.instance == Path.cwd() / "elsewhere"
    assert spec.output.folder == Path.home() / "out"


def test_a_base_that_is_a_folder_beside_the_spec_becomes_a_path(write: Write, tmp_path: Path) -> None:
    (tmp_path / "bases" / "mine").mkdir(parents=True)
    assert load_spec(write(MINIMAL), []).model.base == DEFAULT_BASE
    text = MINIMAL + '[model]\nbase = "bases/mine"\n'
    assert load_spec(write(text)).model.base == str(tmp_path / "bases" / "mine")
    assert load_spec(write(MINIMAL + '[model]\nbase = "owner/mine"\n')).model.base == "owner/mine"
    assert load_spec(write(MINIMAL + '[model]\nbase = "./gone"\n')).model.base == str(tmp_path / "gone")


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.steps=800", lambda spec: spec.train.steps, 800),
        ("train.learning_rate=1e-4", lambda spec: spec.train.learning_rate, 1e-4),
        ("train.learning_rate=1", lambda spec: spec.train.learning_rate, 1.0),
        ("train.aspect_buckets=false", lambda spec: spec.train.aspect_buckets, False),
        ("train.method=full", lambda spec: spec.train.method, "full"),
        ("subject.instance_prompt=a photo of = sks", lambda spec: spec.subject.instance_prompt, "a photo of = sks"),
        ('compute.gpu=["RTX 4090"]', lambda spec: spec.compute.gpu, ("RTX 4090",)),
        ('name="other"', lambda spec: spec.name, "other"),
    ],
)  # fmt: skip
def test_set_takes_toml_values_and_bare_words(
    write: Write, override: str, read: Callable[[RunSpec], object], value: object
) -> None:
    assert read(load_spec(write(MINIMAL), [override])) == value


def test_a_later_set_wins(write: Write) -> None:
    assert load_spec(write(MINIMAL), ["train.steps=1", "train.steps=2"]).train.steps == 2


def test_photos_and_a_subject_are_a_spec(tmp_path: Path) -> None:
    spec = spec_from_photos(tmp_path / "shots", "sks orange cat", ["train.steps=7"])
    assert spec.name == "sks-orange-cat"
    assert spec.subject.instance_prompt == "a photo of sks orange cat"
    assert spec.subject.class_prompt == "a photo of an orange cat"
    assert spec.data.instance == tmp_path / "shots"
    assert spec.train.steps == 7


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_a_spec_survives_the_ledger_exactly(write: Write, text: str) -> None:
    spec = load_spec(write(text))
    assert spec_from_json(spec_to_json(spec)) == spec


def test_ssh_access_splits_the_user_from_the_host(write: Write) -> None:
    ssh = load_spec(write(FULL)).compute.ssh
    assert ssh is not None
    assert (ssh.access.user, ssh.access.host, ssh.access.port) == ("me", "gpu-box", 2222)
    assert ssh.access.identity_file == str(Path.home() / ".ssh/id_ed25519")
    assert ssh.access.workdir == "~/work"


def test_generated_class_images_have_a_count(write: Write) -> None:
    assert load_spec(write(FULL)).data.class_images == GeneratedClassImages(20)


@pytest.mark.parametrize(
    ("text", "name"),
    [("My Dog!", "my-dog"), ("../x", "x"), ("ü", "model"), ("a.b", "a.b"), ("-a-", "a"), ("x" * 90, "x" * 64)],
)
def test_a_slug_can_name_a_file(text: str, name: str) -> None:
    assert slug(text) == name


def test_a_lora_can_also_be_exported_fused(write: Write) -> None:
    spec = load_spec(write(MINIMAL), ['output.formats=["diffusers", "lora"]'])
    assert spec.output.formats == ("diffusers", "lora")


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_example_is_a_valid_spec(path: Path) -> None:
    sources = [pictures.source for pictures in load_spec(path).picture_sets]
    folders = [source.folder for source in sources if isinstance(source, PictureFolder)]
    assert folders
    assert all(folder.is_dir() for folder in folders)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_all_problems_are_reported_together(write: Write, snapshot: Callable[[str, str], None]) -> None:
    path = write(
        """
        nam = "x"
        steps = 5
        [subject]
        instance_promt = "a"
        [data]
        instance = "photos/"
        regularization = "generate:x"
        [train]
        stepz = 4
        method = "lorra"
        batch_size = -1
        resolution = 100
        learning_rate = inf
        validation_prompts = ["a", 3]
        seed = "4"
        aspect_buckets = 1
        [compute]
        market = "spots"
        gpu = "RTX"
        [compute.ssh]
        hots = "a"
        port = 70000
        [output]
        formats = ["diffuser"]
        [storage]
        url = "s3://bucket"
        """
    )
    snapshot("all_problems_at_once", refusal(lambda: load_spec(path, ["train.x", "limits=4"])))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("syntax_error", "[train]\nmethod = lora\n"),
        ("unclosed_list", "[train]\nsteps = [\n"),
        ("empty_spec", ""),
        ("negative_steps", MINIMAL + "[train]\nsteps = -5\n"),
        ("steps_as_text", MINIMAL + '[train]\nsteps = "many"\n'),
        ("typo", MINIMAL + "[train]\nstepz = 5\n"),
        ("key_in_the_wrong_section", MINIMAL + "resolution = 512\n"),
        ("name_is_no_file_name", 'name = "my dog/1"\n' + MINIMAL),
        ("empty_prompt", MINIMAL.replace("a photo of sks dog", "  ")),
        ("git_url", MINIMAL + 'regularization = "git@example.com:x.git"\n'),
        ("class_prompt_missing", MINIMAL + 'regularization = "generate:10"\n'),
        ("format_of_another_method", MINIMAL + '[train]\nmethod = "full"\n[output]\nformats = ["lora"]\n'),
        ("ssh_without_host", MINIMAL + '[compute]\nprovider = "ssh"\n'),
        ("two_users", MINIMAL + '[compute.ssh]\nhost = "me@box"\nuser = "you"\n'),
        ("section_is_a_value", MINIMAL.replace("[subject]", "train = 5\n[subject]")),
        ("later_feature", MINIMAL + "[limits]\nmax_pictures = 72\n"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(
    write: Write, snapshot: Callable[[str, str], None], name: str, text: str
) -> None:
    snapshot(name, refusal(lambda: load_spec(write(text))))


def test_a_folder_is_no_spec(tmp_path: Path, snapshot: Callable[[str, str], None]) -> None:
    snapshot("folder_given", refusal(lambda: load_spec(tmp_path)))


def test_a_photo_is_no_spec(tmp_path: Path, snapshot: Callable[[str, str], None]) -> None:
    snapshot("photo_given", refusal(lambda: load_spec(tmp_path / "dog.jpg")))


def test_a_missing_spec_is_named(tmp_path: Path, snapshot: Callable[[str, str], None]) -> None:
    snapshot("missing_spec", refusal(lambda: load_spec(tmp_path / "dog.toml")))


def test_the_only_spec_beside_a_missing_one_is_suggested(write: Write, tmp_path: Path) -> None:
    existing = write(MINIMAL)
    assert str(existing) in refusal(lambda: load_spec(tmp_path / "mydog.toml"))


def test_a_spec_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refusal(lambda: load_spec(path))


def test_a_subject_needs_its_kind(snapshot: Callable[[str, str], None]) -> None:
    snapshot("subject_without_kind", refusal(lambda: spec_from_photos(Path("photos"), "sks")))


def test_a_subject_without_a_rare_word_gets_one() -> None:
    spec = spec_from_photos(Path("photos"), "a Robot")
    assert (spec.subject.instance_prompt, spec.name) == ("a photo of sks robot", "sks-robot")


def test_a_builtin_base_is_trained_at_its_own_size_unless_the_spec_says_another() -> None:
    def side(*overrides: str) -> int:
        return spec_from_photos(Path("photos"), "sks dog", overrides).train.resolution

    assert (side("model.base=builtin:toybox"), side()) == (64, 512)
    assert side("model.base=builtin:toybox", "train.resolution=128") == 128


def test_a_spec_and_a_subject_do_not_go_together(write: Write, snapshot: Callable[[str, str], None]) -> None:
    snapshot("spec_with_subject", refusal(lambda: spec_from_photos(write(MINIMAL), "sks dog")))


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (('compute.provider="ssh"',), "`--host me@gpu-box`"),
        (("train.step=5",), "`--set train.steps=5`"),
        (("trian.steps=5",), "`--set train.steps=5`"),
        (("subject.instance_promt=a sks dog",), "`--set 'subject.instance_prompt=a sks dog'`"),
        (('compute.ssh.host="root@127.0.0.1:239"',), "`--host root@127.0.0.1 --set compute.ssh.port=239`"),
        (('compute.ssh.host="[::1]:22"',), "`--host ::1 --set compute.ssh.port=22`"),
        (("data.regularization=generate",), "`--set data.regularization=generate:200`"),
        (("data.regularization=generate=50",), "`--set data.regularization=generate:50`"),
        (("train.step=5", "train.batch=2"), "`--set train.steps=5` and `--set train.batch_size=2`"),
        (("train.steps=-5",), "`cloudbooth plan` with the same arguments checks it again without starting anything"),
    ],
)
def test_a_wrong_flag_comes_with_the_right_one(overrides: tuple[str, ...], hint: str) -> None:
    said = refusal(lambda: spec_from_photos(Path("photos"), "sks dog", overrides))
    assert said.endswith(f"\n\nhint: {hint}\n")


@pytest.mark.parametrize("host", ["gpu-box", "me@gpu-box", "fe80::1", "me@2001:db8::22"])
def test_colons_of_an_address_are_no_port(write: Write, host: str) -> None:
    ssh = load_spec(write(MINIMAL), [f'compute.ssh.host="{host}"']).compute.ssh
    assert ssh is not None
    assert ssh.host == host


def test_a_folder_named_generate_is_written_with_its_path(write: Write, tmp_path: Path) -> None:
    text = MINIMAL.replace("[data]", 'class_prompt = "a dog"\n[data]') + 'regularization = "./generate"\n'
    assert load_spec(write(text)).data.class_images == PictureFolder(tmp_path / "generate")


def test_a_recorded_spec_of_another_version_is_refused(write: Write) -> None:
    recorded = spec_to_json(load_spec(write(MINIMAL))).replace('"steps"', '"stepz"')
    assert "the recorded spec has a problem" in refusal(lambda: spec_from_json(recorded))


def test_keys_of_the_store_go_to_no_strangers_machine(write: Write) -> None:
    rented = ['compute.provider="vast"', "storage.pod_credentials=true", 'storage.url="s3://models/dogs"']
    with pytest.raises(UsageError, match="a community host is a stranger's") as caught:
        load_spec(write(MINIMAL), rented)
    assert "secure" in caught.value.hint
    assert load_spec(write(MINIMAL), [*rented, 'compute.trust="secure"']).storage.pod_credentials
