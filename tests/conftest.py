"""Options of all folders."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every model at every number of ranks (minutes)")
    parser.addoption("--regenerate", action="store_true", help="write the golden plans anew; read the diff before committing it")
