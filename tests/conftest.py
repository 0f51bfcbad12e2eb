"""Options and real ranks for all folders."""

from collections.abc import Iterator

import pytest

from axisplit.runtime.pool import RankPool


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every model at every number of ranks (minutes)")
    parser.addoption(
        "--regenerate", action="store_true", help="write the golden plans anew; read the diff before committing it"
    )


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    with RankPool(2, deadline_s=90) as pool:
        yield pool


@pytest.fixture(scope="session")
def three_ranks() -> Iterator[RankPool]:
    with RankPool(3, deadline_s=90) as pool:
        yield pool
