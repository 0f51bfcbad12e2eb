"""Other people's libraries at arm's length: there or not, quiet, and their exceptions turned into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from axisplit.errors import AxisplitError, InputError

EXTRAS = {"transformers": "hf", "safetensors": "hf", "huggingface_hub": "hf", "gguf": "gguf", "accelerate": "gguf"}


def require(*packages: str) -> None:
    """Raises: InputError naming the extra to install for every package that is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        extras = ",".join(sorted({EXTRAS[package] for package in missing}))
        raise InputError(
            what="a package that this model needs is not installed",
            where="this Python environment",
            got=f"no {', '.join(missing)}",
            needed=", ".join(packages),
            do=f"pip install 'axisplit[{extras}]'",
        )


@contextmanager
def library_errors(*, what: str, where: str, needed: str, do: str) -> Iterator[None]:
    """Turn any exception of a library into an InputError whose `got` is its first line; the cause is kept."""
    try:
        yield
    except (AxisplitError, MemoryError):
        raise
    except Exception as error:
        first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        got = f"{type(error).__name__}: {first_line[:300]}"
        raise InputError(what=what, where=where, got=got, needed=needed, do=do) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without its log lines below errors and without progress bars; as before afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
