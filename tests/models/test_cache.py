"""An entry is built once, whole or not at all, however many processes ask and however they end."""

import os
import signal
import subprocess
import sys
import time

import pytest

from axisplit.errors import InputError
from axisplit.models.cache import cache_dir, find_cached, make_cached

CHILD = """
import sys, time
from pathlib import Path
from axisplit.models.cache import make_cached
home, seconds = Path(sys.argv[1]), float(sys.argv[2])
def build(directory):
    with (home / "log").open("a") as log:
        log.write("built\\n")
    (directory / "half").write_text("half")
    (home / "started").touch()
    time.sleep(seconds)
    (directory / "whole").write_text("whole")
make_cached("key", build, {})
"""


def start(home, seconds):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(home), str(seconds)])


def fill(directory):
    (directory / "whole").write_text("whole")


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "axisplit-cache"
    monkeypatch.delenv("AXISPLIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "axisplit"


def test_killed_in_the_middle_then_made_again(tmp_path):
    child = start(tmp_path, 60)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert find_cached("key") is None
    assert [path.name for path in cache_dir().glob(".key.*.part/*")] == ["half"]
    entry = make_cached("key", fill, {})
    assert sorted(path.name for path in entry.iterdir()) == ["manifest.json", "whole"]
    assert not list(cache_dir().glob(".key.*.part"))


def test_two_processes_build_once(tmp_path):
    children = [start(tmp_path, 0.3) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert find_cached("key") is not None


def test_failed_build_leaves_nothing():
    with pytest.raises(ZeroDivisionError):
        make_cached("key", lambda directory: 1 / 0, {})
    assert [path.name for path in cache_dir().iterdir()] == [".key.lock"]


def test_damaged_entry_is_built_again():
    entry = make_cached("key", fill, {})
    (entry / "whole").write_text("cut")
    assert find_cached("key") is None
    assert (make_cached("key", fill, {}) / "whole").read_text() == "whole"


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AXISPLIT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(InputError, match=r"cannot write to axisplit's cache\n.*\n  got: Not a directory"):
        make_cached("key", fill, {})
    assert os.listdir(tmp_path) == ["file"]
