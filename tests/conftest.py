"""Options and real ranks for all folders."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from axisplit.runtime.pool import RankPool

settings.register_profile("tests", deadline=None)  # a first call may load much; pytest-timeout watches all
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every model at every number of ranks (minutes)")
    parser.addoption(
        "--regenerate",
        action="store_true",
        help="write golden texts and pages anew; read the diff before committing it",
    )


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--regenerate"))


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    with RankPool(2, deadline_s=90) as pool:
        yield pool


@pytest.fixture(scope="session")
def three_ranks() -> Iterator[RankPool]:
    with RankPool(3, deadline_s=90) as pool:
        yield pool
