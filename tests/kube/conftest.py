from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.kube.fake_api import FakeApi
from twinvault_kube.client import KubeClient


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[KubeClient]:
    made = api.client()
    yield made
    await made.close()
