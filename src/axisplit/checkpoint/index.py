"""Which tensors a checkpoint directory holds, and in which of its files.

One `model.safetensors`, or shards named by the `weight_map` of `model.safetensors.index.json`. A shard is a plain
file name; the file lies in the directory itself or, in a hub cache, in the `blobs` beside its snapshot.
"""

from __future__ import annotations

from pathlib import Path

from axisplit.checkpoint.header import MAX_TENSORS, TensorEntry, listing, read_header
from axisplit.checkpoint.strict_json import read_json_object
from axisplit.errors import InputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * 2**20
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def has_weights(directory: Path) -> bool:
    """Whether the directory names safetensors weights; nothing is opened."""
    return (directory / SINGLE_FILE).is_file() or (directory / INDEX_FILE).is_file()


def read_entries(directory: Path) -> dict[str, TensorEntry]:
    """Name -> entry of every tensor in the directory.

    Raises: InputError if there are no weights, a file is damaged, or index and files disagree.
    """
    if (directory / SINGLE_FILE).is_file():
        return read_header(checked_file(directory, SINGLE_FILE))
    if (directory / INDEX_FILE).is_file():
        return _read_sharded(directory)
    raise no_weights(directory)


def no_weights(directory: Path) -> InputError:
    """The error for a directory without safetensors; names pickled weights if they are all there is."""
    pickles = (
        sorted(ascii(p.name) for p in directory.iterdir() if p.suffix in PICKLE_SUFFIXES) if directory.is_dir() else []
    )
    if pickles:
        got = f"only {', '.join(pickles[:5])}, in formats that can run code when they are opened"
        do = "save the model as safetensors where you trust it: model.save_pretrained(directory)"
    else:
        got = "no weights" if directory.is_dir() else "no such directory"
        do = "give the directory of a saved model; without weights a model can be planned but not run"
    return InputError(
        what="cannot open the checkpoint",
        where=str(directory),
        got=got,
        needed=f"{SINGLE_FILE}, or {INDEX_FILE} with its shards",
        do=do,
    )


def checked_file(directory: Path, name: str) -> Path:
    """The regular file `name` of `directory`, never one outside it (the `blobs` of its hub cache excepted)."""
    plain = bool(name) and name.isprintable() and not name.startswith(".") and not set(name) & {"/", "\\", ":"}
    path = directory / name
    if not plain:
        raise _bad_shard(directory, f"{ascii(name)[:80]}", "a plain file name")
    if not path.is_file():
        raise _bad_shard(directory, f"{name}, which is not there", "every shard that the index names")
    target, home = path.resolve(), directory.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if target.parent not in (home, blobs):
        raise _bad_shard(directory, f"{name}, a link that leaves the directory", "a file inside the directory")
    return path


def _read_sharded(directory: Path) -> dict[str, TensorEntry]:
    index = read_json_object(directory / INDEX_FILE, "cannot read the index of a checkpoint", MAX_INDEX_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise _bad_shard(directory, "no weight_map", "weight_map: tensor name -> file name")
    if len(weight_map) > MAX_TENSORS:
        raise _bad_shard(directory, f"{len(weight_map):,} tensors", f"at most {MAX_TENSORS:,}")
    entries: dict[str, TensorEntry] = {}
    problems: list[str] = []
    for file in sorted(set(weight_map.values())):
        for name, entry in read_header(checked_file(directory, file)).items():
            if weight_map.get(name) == file:
                entries[name] = entry
            else:
                problems.append(f"{name} is in {file}, the index says {weight_map.get(name)!a}")
    problems += [f"{name!a} is not in {file}" for name, file in weight_map.items() if name not in entries]
    if problems:
        raise _bad_shard(directory, listing(problems), "each tensor once, in the file that the index names")
    return entries


def _bad_shard(directory: Path, got: str, needed: str) -> InputError:
    return InputError(
        what="cannot use the checkpoint's files",
        where=str(directory),
        got=got,
        needed=needed,
        do="copy or download the whole checkpoint again",
    )
