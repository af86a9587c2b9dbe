"""Fixtures that every room's tests may use."""

import asyncio

from tests.cluster_fixture import cluster, namespace, prometheus, pytest_collection_modifyitems

__all__ = ["cluster", "namespace", "prometheus", "pytest_collection_modifyitems"]


def pytest_sessionstart() -> None:
    # looptime asks for the current event loop in tests that have none; without this, Python makes
    # one each time, which nobody closes.
    asyncio.set_event_loop(None)
