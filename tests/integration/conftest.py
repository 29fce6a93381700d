"""A dashboard beside a test's own store and namespace."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync import FluxySync
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key
from tests.dashboard import Dashboard


@pytest.fixture
def dashboard(store_url: str, namespace: str, tmp_path: Path) -> Iterator[Dashboard]:
    """A dashboard that isn't running yet."""
    made = Dashboard(store_settings(store_url, namespace, tmp_path), tmp_path)
    yield made
    made.end()


@pytest.fixture
def shown(dashboard: Dashboard) -> Dashboard:
    """A dashboard that runs."""
    return dashboard.start()


@pytest.fixture
def producer(store_url: str, namespace: str) -> FluxySync:
    """Who queues what the dashboard shows; nothing delivers it."""
    return FluxySync(Settings(redis_url=store_url, namespace=namespace, keys=new_key(), upstream="http://127.0.0.1:9"))


def store_settings(store_url: str, namespace: str, folder: Path) -> dict[str, str]:
    """A dashboard's settings: it has no keys."""
    return {
        "FLUXY_SYNC_REDIS_URL": store_url,
        "FLUXY_SYNC_NAMESPACE": namespace,
        "FLUXY_SYNC_DATA_DIR": str(folder / "data"),
    }
