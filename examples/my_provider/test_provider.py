"""The suite that cloudbooth ships, and what is special about this service. `pytest examples/my_provider`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cloudbooth_lambda import LambdaProvider
from fake_lambda import KEY, FakeLambda, running_fake

from providers.api import BootPlan, GpuRequest, MachineProvider
from providers.errors import AuthRejected, Indeterminate, NoCapacity
from providers.registry import ProviderContext
from providers.testing.contract import MachineProviderContract


@pytest.fixture
def fake() -> Iterator[FakeLambda]:
    with running_fake() as fake:
        yield fake


def built(fake: FakeLambda, key: str = KEY) -> LambdaProvider:
    return LambdaProvider(ProviderContext(Path("unused"), {"LAMBDA_API_KEY": key, "LAMBDA_API_URL": fake.url}))


class TestLambda(MachineProviderContract):
    secrets = (KEY,)

    @pytest.fixture
    def provider(self, fake: FakeLambda) -> MachineProvider:
        return built(fake)


def test_a_missing_key_is_explained(tmp_path: Path) -> None:
    with pytest.raises(AuthRejected, match="there is no key") as caught:
        LambdaProvider(ProviderContext(tmp_path, {}))
    assert "LAMBDA_API_KEY" in caught.value.hint


def test_a_wrong_key_is_an_auth_error(fake: FakeLambda) -> None:
    with pytest.raises(AuthRejected, match="invalid"):
        built(fake, "wrong").offers(GpuRequest())


def test_a_launch_without_capacity_rents_nothing(fake: FakeLambda) -> None:
    provider = built(fake)
    [offer, *_] = provider.offers(GpuRequest())
    fake.sold_out = True
    with pytest.raises(NoCapacity):
        provider.create(offer, BootPlan(), "cb-1")
    assert not fake.instances


def test_a_lost_answer_leaves_a_machine_that_the_list_shows(fake: FakeLambda) -> None:
    provider = built(fake)
    fake.drop_launch_answers = True
    with pytest.raises(Indeterminate):
        provider.create(provider.offers(GpuRequest())[0], BootPlan(), "cb-1")
    assert [machine.tag for machine in provider.list("cb-1")] == ["cb-1"]
