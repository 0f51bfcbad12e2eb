"""Real gloo ranks, started once a session."""

from collections.abc import Iterator

import pytest

from axisplit.runtime.pool import RankPool


@pytest.fixture(scope="session")
def pool2() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def pool3() -> Iterator[RankPool]:
    with RankPool(3) as pool:
        yield pool


@pytest.fixture(params=[2, 3])
def pool(request: pytest.FixtureRequest) -> RankPool:
    """2 ranks exchange whole tensors, 3 reduce by chunks."""
    found: RankPool = request.getfixturevalue(f"pool{request.param}")
    return found
