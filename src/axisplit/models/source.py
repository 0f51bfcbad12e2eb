"""What MODEL on the command line stands for.

| MODEL | kind |
|---|---|
| `smollm2`, `minilm` | what the package carries: `gguf` or `directory` |
| a directory with config.json | `directory` |
| a `config.json` | `config`: can be planned, not run |
| a `.gguf` file | `gguf` |
| `package.module:factory` | `factory` |
| `organisation/name` | `directory`: its snapshot in the hub's local cache; nothing is downloaded |
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from axisplit.checkpoint.index import has_weights, no_weights
from axisplit.errors import InputError
from axisplit.models.cache import Progress, no_progress
from axisplit.models.carried import CARRIED, carried_path

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["directory", "config", "gguf", "factory"]
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


@dataclass(frozen=True)
class ModelSource:
    """A model that is named but not yet read: `name` as the user wrote it, `path` None for a factory."""

    name: str
    kind: Kind
    path: Path | None
    has_weights: bool

    def build_meta(self) -> nn.Module:
        """The model on the meta device, in eval mode; its weights are not read (a factory's are, then dropped)."""
        from axisplit.models import factory, gguf, meta, pretrained

        if self.kind == "factory":
            return meta.to_meta(factory.call_factory(self.name)[0])
        if self.kind == "gguf":
            config = gguf.gguf_config(self._path)
            read = pretrained.read_config(config) if isinstance(config, Path) else config
            return pretrained.build_meta(read, self._path)
        file = self._path if self.kind == "config" else self._path / "config.json"
        weights = self._path if self.kind == "directory" else None
        return pretrained.build_meta(pretrained.read_config(file), file, weights)

    def load(self, progress: Progress = no_progress) -> nn.Module:
        """The model in memory, in eval mode, from local files only.

        Raises: InputError if it has no weights, or they are damaged or do not fit.
        """
        from axisplit.models import factory, pretrained

        if self.kind == "factory":
            return factory.call_factory(self.name)[0]
        return pretrained.load_directory(self.checkpoint_dir(progress, contents=True))

    def checkpoint_dir(self, progress: Progress = no_progress, *, contents: bool = False) -> Path:
        """The directory of config.json and safetensors; a GGUF file is converted into the cache first.

        An earlier conversion is taken if its files have their sizes, with `contents` if every byte is as it was
        written (about a second a GB); else it is made again.
        Raises: InputError if there are no safetensors.
        """
        from axisplit.models import gguf

        if self.kind == "gguf":
            return gguf.gguf_checkpoint(self._path, progress, contents=contents)
        if self.kind == "directory" and self.has_weights:
            return self._path
        if self.kind == "directory":
            raise no_weights(self._path)
        if self.kind == "config":
            raise self._lacks(
                "weights", "a config.json alone", f"give the directory with its weights: {self._path.parent}"
            )
        raise self._lacks("a checkpoint", "a factory", "save its model with save_pretrained(directory)")

    def tokenizer(self, progress: Progress = no_progress) -> Any:
        """The model's transformers tokenizer.

        Raises: InputError if there is none.
        """
        from axisplit.models import pretrained

        if self.kind == "gguf":
            return pretrained.load_tokenizer(self.checkpoint_dir(progress))
        if self.kind == "directory":
            return pretrained.load_tokenizer(self._path)
        raise self._lacks("a tokenizer", f"a {self.kind}", "give a model directory with a tokenizer")

    def with_inputs(
        self, batch: int, seq: int, *, meta: bool = False, progress: Progress = no_progress
    ) -> tuple[nn.Module, Any]:
        """(model, example inputs): the factory's own inputs if it returns some, else `example_inputs`.

        Args:
            meta: build the model on the meta device (`build_meta`) instead of loading it.
        """
        from axisplit.models import factory
        from axisplit.models.inputs import example_inputs
        from axisplit.models.meta import to_meta

        inputs = None
        if self.kind == "factory":
            model, inputs = factory.call_factory(self.name)
            model = to_meta(model) if meta else model
        else:
            model = self.build_meta() if meta else self.load(progress)
        return model, example_inputs(model, batch, seq) if inputs is None else inputs

    @property
    def _path(self) -> Path:
        assert self.path is not None
        return self.path

    def _lacks(self, needed: str, got: str, do: str) -> InputError:
        return InputError(
            what=f"this model does not come with {needed}", where=self.name, got=got, needed=needed, do=do
        )


def resolve_model(text: str) -> ModelSource:
    """The source that MODEL names; nothing is read but the names of files.

    Names that packages carry win over files of the same name (write `./smollm2` for the file).
    Raises: InputError if it names nothing, or something that is not a model.
    """
    if text in CARRIED:
        return _from_path(text, carried_path(text))
    path = Path(text).expanduser()
    if text and path.exists():
        return _from_path(text, path)
    if FACTORY.fullmatch(text):
        return ModelSource(text, "factory", None, has_weights=True)
    if text.endswith((".json", ".gguf", ".safetensors")) or text.startswith((".", "/", "~")):
        raise _unknown(text, "no such file or directory")
    snapshot = _hub_snapshot(text) if HUB_ID.fullmatch(text) else None
    if snapshot is not None:
        return _from_path(text, snapshot)
    raise _unknown(text, "no such file, and nothing of that name in the hub's local cache")


def _from_path(text: str, path: Path) -> ModelSource:
    if path.is_dir():
        if not (path / "config.json").is_file():
            ggufs = sorted(path.glob("*.gguf"))
            do = f"give the file itself: {ggufs[0]}" if ggufs else "give the directory that holds config.json"
            raise InputError(
                what="this directory is not a model", where=str(path), got="no config.json", needed="config.json", do=do
            )
        return ModelSource(text, "directory", path, has_weights(path))
    if path.suffix == ".gguf":
        return ModelSource(text, "gguf", path, has_weights=True)
    if path.suffix == ".json":
        return ModelSource(text, "config", path, has_weights=False)
    do = f"give its directory: {path.parent}" if path.suffix == ".safetensors" else "give one of these"
    raise _unknown(text, f"a file of kind {path.suffix or 'unknown'!r}", do)


def _hub_snapshot(hub_id: str) -> Path | None:
    """The snapshot of the repository's main branch in the hub's cache on this machine, or None."""
    from importlib.util import find_spec

    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _unknown(text: str, got: str, do: str | None = None) -> InputError:
    near = difflib.get_close_matches(text, CARRIED, 1)
    return InputError(
        what=f"cannot find the model {text!r}",
        where="MODEL",
        got=got,
        needed="a model directory, a config.json, a .gguf file, module:factory, a downloaded hub id, or "
        + " or ".join(CARRIED),
        do=do or (f"did you mean {near[0]}?" if near else "check the spelling; axisplit downloads nothing by itself"),
    )
