"""The error tree: its text, and its way between processes."""

import pickle

import pytest

from axisplit import errors


def test_the_text_has_every_field_on_its_own_lines() -> None:
    error = errors.LayoutError("cannot split", where="layers.*", got="a\nb", needed="4", do="use 2")
    assert str(error) == "cannot split\n  where: layers.*\n  got: a\n    b\n  needed: 4\n  do: use 2"


@pytest.mark.parametrize("name", errors.__all__)
def test_all_are_one_tree_and_survive_pickling(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.AxisplitError)
    error = pickle.loads(pickle.dumps(kind("what", do="this")))
    assert type(error) is kind
    assert (error.what, error.do, str(error)) == ("what", "this", "what\n  do: this")
    assert name in (errors.__doc__ or "")
