"""Files that are damaged or hostile are refused with a text that says what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from axisplit.checkpoint import header, open_checkpoint
from axisplit.errors import InputError

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(directory: Path, head: bytes | dict, data: bytes = bytes(8), name: str = "model.safetensors") -> Path:
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    (directory / name).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return directory


def message(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(directory)
    return str(caught.value)


def test_good_file_of_every_dtype(tmp_path):
    dtypes = [getattr(torch, name) for name, _ in header.DTYPES.values()]
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in dtypes}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        read = checkpoint.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8))


def test_whole_message(tmp_path):
    write(tmp_path, {"w": F32}, data=bytes(7))
    assert message(tmp_path) == (
        "cannot read a safetensors file\n"
        f"  where: {tmp_path / 'model.safetensors'}\n"
        "  got: 76 bytes\n"
        "  needed: 77 bytes, as its header says\n"
        "  do: the file is missing, damaged or cut short: copy or download it again"
    )


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b'{"w": {}, "w": {}}', "keys that are there twice: ['w']"),
        (b"[]", "a header that starts with b'[]'"),
        (b'{"w": nope}', "Expecting value"),
        (b'{"w": ' + b"[" * 100_000, "JSON nested too deeply"),
        (b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', "NaN is not JSON"),
        ({"w": {**F32, "dtype": "F4"}}, "'w' has dtype 'F4', which axisplit does not read"),
        ({"w": {**F32, "shape": [-2]}}, "'w' has a bad shape or bad offsets"),
        ({"w": {**F32, "shape": [True, 2]}}, "'w' has a bad shape or bad offsets"),
        ({"w": {**F32, "shape": [3]}}, "'w' F32 [3] needs 12 bytes, has [0, 8]"),
        ({"w": {**F32, "shape": [2**62, 4]}}, "'w' F32 [4611686018427387904, 4] needs"),
        ({"w": {**F32, "data_offsets": [8, 16]}}, "'w' leaves a hole before it"),
        ({"a": F32, "b": F32}, "'b' overlaps the tensor before it"),
        ({"a\x00b": F32}, "name 'a\\x00b' is empty, too long or not printable"),
        ({"a\u202eb": F32}, "name 'a\\u202eb' is empty, too long or not printable"),
        ({"w": F32, "__metadata__": []}, "__metadata__ that is not an object"),
        ({"x": {}, "y": 1}, "'x' is not described by dtype, shape and data_offsets\n    'y' is not"),
    ],
)
def test_bad_headers(tmp_path, head, text):
    assert text in message(write(tmp_path, head))


def test_limits(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes((2**60).to_bytes(8, "little"))
    assert "a header of 1,152,921,504,606,846,976 bytes behind the first 8" in message(tmp_path)
    monkeypatch.setattr(header, "MAX_HEADER_BYTES", 100)
    assert "got: a header of 200 bytes\n  needed: at most 100" in message(write(tmp_path, b"{" + b" " * 198 + b"}"))
    monkeypatch.setattr(header, "MAX_TENSORS", 1)
    assert "got: 2 tensors\n  needed: at most 1" in message(write(tmp_path, {"a": 1, "b": 1}))


def test_nothing_there_or_only_pickles(tmp_path):
    assert "got: no weights" in message(tmp_path)
    assert "got: no such directory" in message(tmp_path / "absent")
    (tmp_path / "pytorch_model.bin").touch()
    text = message(tmp_path)
    assert "got: only 'pytorch_model.bin', in formats that can run code when they are opened" in text
    assert "weights_only" not in text


def index(directory: Path, weight_map: object) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "text"),
    [
        ({"w": "../out.safetensors"}, "'../out.safetensors'\n  needed: a plain file name"),
        ({"w": "/etc/passwd"}, "needed: a plain file name"),
        ({"w": ".hidden"}, "needed: a plain file name"),
        ({"w": "C:x"}, "needed: a plain file name"),
        ({"w": "absent.safetensors"}, "got: absent.safetensors, which is not there"),
        ({"w": "folder"}, "got: folder, which is not there"),
        ({"w": "link.safetensors"}, "got: link.safetensors, a link that leaves the directory"),
        ({"w": "a.safetensors", "v": "a.safetensors"}, "'v' is not in a.safetensors"),
        ({"w": "a.safetensors", "v": "b.safetensors"}, "w is in b.safetensors, the index says 'a.safetensors'"),
        ({"w": 1}, "got: no weight_map"),
        (None, "got: no weight_map"),
    ],
)
def test_bad_index(tmp_path, weight_map, text):
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    write(tmp_path, {"w": F32}, name="out.safetensors")
    write(home, {"w": F32}, name="a.safetensors")
    write(home, {"v": F32, "w": {**F32, "data_offsets": [8, 16]}}, bytes(16), name="b.safetensors")
    (home / "link.safetensors").symlink_to(tmp_path / "out.safetensors")
    index(home, weight_map)
    assert text in message(home)


def test_hub_cache_links_to_its_blobs(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write(blobs, {"w": F32}, name="0123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert list(open_checkpoint(snapshot).tensors) == ["w"]
    elsewhere = tmp_path / "other" / "abc"
    elsewhere.parent.mkdir()
    snapshot.rename(elsewhere)
    assert "a link that leaves the directory" in message(elsewhere)
