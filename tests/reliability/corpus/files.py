"""Files that end a whole command: splits.json, cubes, checkpoints, settings."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.reliability.corpus.member import BrokenFile

RAN = "ran"
"""A file that hostile code would make."""


class Hostile:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch '{path.parent / RAN}'"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def cut(share: float) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def folds(*vals: Any) -> Callable[[Path], object]:
    return content(json.dumps([{"train": [], "val": val} for val in vals]).encode())


def splits(cases: list[str]) -> Iterator[BrokenFile]:
    one, two = cases
    no_json, form = "not a JSON file", r"expected a list of 5 objects"
    broken = {
        "empty": (no_json, content(b"")),
        "cut": (no_json, content(b'[{"train": [], "val": ["')),
        "binary": (no_json, content(bytes(range(256)))),
        "too deep": (no_json, content(b"[" * 100_000)),
        "a number of a million digits": (no_json, content(b"1" * 1_000_000)),
        "a pickle": (no_json, lambda path: path.write_bytes(pickle.dumps(Hostile(path)))),
    }
    wrong_type = {
        "null": (f"a NoneType; {form}", content(b"null")),
        "an object": (f"a dict; {form}", content(b"{}")),
        "4 folds": (f"a list of 4; {form}", folds([one], [two], [], [])),
        "6 folds": (f"a list of 6; {form}", folds([one], [two], [], [], [], [])),
        "folds of texts": ('fold 0: expected an object with "val"', content(b'["a", "b", "c", "d", "e"]')),
        "val of a text": ('fold 0: expected an object with "val"', folds("abc", [], [], [], [])),
        "val of numbers": ('fold 1: expected an object with "val"', folds([one], [7], [], [], [])),
        "val of lists": ('fold 2: expected an object with "val"', folds([one], [], [[two]], [], [])),
    }
    empty = {
        "no case": ("all val lists are empty", folds([], [], [], [], [])),
        "other cases": (
            "no case is left: the archive and the splits have none in common",
            folds(["x"], [], [], [], []),
        ),
        "hostile ids": (
            "no case is left",
            folds(["../../etc/passwd", "/etc/passwd", "a\nb", "\ud800"], [], [], [], []),
        ),
    }
    overlapping = {
        "a case in two folds": (
            f"the val lists overlap; given more than once: {one}",
            folds([one], [one], [two], [], []),
        ),
        "a case twice in a fold": (
            r"given more than once: two\\nlines",
            folds(["two\nlines"] * 2, [], [], [], []),
        ),
    }
    for fault, members in [
        ("broken", broken),
        ("wrong types", wrong_type),
        ("empty", empty),
        ("overlapping", overlapping),
    ]:
        for name, (says, make) in members.items():
            yield BrokenFile(name, fault, says, make)


def saved(change: Callable[[np.ndarray], np.ndarray], **options: Any) -> Callable[[Path], object]:
    return lambda path: np.save(path, change(np.load(path)), **options)


def with_value(value: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        cubes = np.load(path)
        cubes[0, 1, 2, 3, 1] = value
        np.save(path, cubes)

    return make


def npy_header(text: str, version: bytes = b"\x01\x00") -> Callable[[Path], object]:
    """A file with this text where the description of the array is."""
    data = text.encode().ljust(117) + b"\n"
    return content(
        b"\x93NUMPY" + version + len(data).to_bytes(2 if version[0] == 1 else 4, "little") + data + bytes(999)
    )


def of_shape(*shape: int) -> Callable[[Path], object]:
    return npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")


def hostile_array(path: Path) -> None:
    np.save(path, np.array([Hostile(path)], object), allow_pickle=True)


def npz(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, np.zeros(3))


def cubes() -> Iterator[BrokenFile]:
    no_file = "not a readable file of cubes: ."
    bytes_ = {
        "empty": (no_file, content(b"")),
        "cut in its header": (no_file, cut(0.001)),
        "cut in a cube": (no_file, cut(0.7)),
        "text": (no_file, content(b"404: Not Found\n")),
        "an archive of arrays": (no_file, npz),
    }
    pickles = {
        "Python objects": (no_file, hostile_array),
        "a pickle": (no_file, lambda path: path.write_bytes(pickle.dumps(Hostile(path)))),
        "code for a header": (no_file, npy_header("__import__('os').system('touch ran')")),
        "an endless expression": (no_file, npy_header("{'descr': '<f4', 'shape': " + "(" * 60)),
    }
    shapes = {
        "a huge number of cubes": (no_file, of_shape(10**15, 4, 16, 16, 4)),
        "a size that overflows": (no_file, of_shape(2**62, 4, 2, 2, 2)),
        "a negative number of cubes": (no_file, of_shape(-1, 4, 16, 16, 4)),
        "three channels": (r"has the shape .*, 3, .*; expected \(cubes, 4, x, y, z\)", saved(lambda c: c[:, :3])),
        "one cube alone": ("has the shape", saved(lambda c: c[0])),
        "a number": (r"has the shape \(\)", saved(lambda c: c[0, 0, 0, 0, 0])),
        "other cubes than the others": ("cubes of .* but those of", saved(lambda c: c[..., :2])),
    }
    types = {
        "whole numbers": ("holds int64; expected float16", saved(lambda c: c.astype(int))),
        "complex numbers": ("holds complex128", saved(lambda c: c.astype(complex))),
        "the other byte order": ("holds >f", saved(lambda c: c.astype(c.dtype.newbyteorder(">")))),
        "another precision": ("but those of", saved(lambda c: c.astype("f8"))),
    }
    values = {
        "a NaN": ("cube 0 has 1 values that are not finite", with_value(np.nan)),
        "an infinity": ("cube 0 has 1 values that are not finite", with_value(-np.inf)),
    }
    missing = {"no file": ("is missing; generate the cubes", lambda path: path.unlink())}
    groups = {
        "cut or foreign": bytes_,
        "pickles and code": pickles,
        "wrong shape": shapes,
        "wrong type": types,
        "values that are not finite": values,
        "missing": missing,
    }
    for fault, members in groups.items():
        for name, (says, make) in members.items():
            yield BrokenFile(name, fault, says, make)


def change(**parts: Any) -> Callable[[Path], object]:
    """Other parts in a checkpoint; a function takes the good part."""

    def make(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save(
            content | {name: part(content[name]) if callable(part) else part for name, part in parts.items()}, path
        )

    return make


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Another first tensor."""
    return lambda tensors: {name: change(one) if n == 0 else one for n, (name, one) in enumerate(tensors.items())}


def momentum(buffer: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def changed(state: dict[str, Any]) -> dict[str, Any]:
        state["state"][0]["momentum_buffer"] = buffer(state["state"][0]["momentum_buffer"])
        return state

    return changed


def group(**settings: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: state | {"param_groups": [state["param_groups"][0] | settings]}


def rewritten(keep: Callable[[str], bool], compression: int = zipfile.ZIP_STORED) -> Callable[[Path], object]:
    """The records of a checkpoint in another zip archive."""

    def make(path: Path) -> None:
        made = io.BytesIO()
        with zipfile.ZipFile(path) as whole, zipfile.ZipFile(made, "w", compression) as other:
            for name in filter(keep, whole.namelist()):
                other.writestr(name, whole.read(name))
        path.write_bytes(made.getvalue())

    return make


def checkpoints() -> Iterator[BrokenFile]:
    unreadable = "not a readable checkpoint; remove it to start anew"
    cuts = {f"cut at {share:g}": (unreadable, cut(share)) for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999)}
    foreign = {
        "text": (unreadable, content(b"<html>404</html>")),
        "zeros": (unreadable, content(bytes(5000))),
        "without a record": (unreadable, rewritten(lambda name: not name.endswith("data/0"))),
        "without its pickle": (unreadable, rewritten(lambda name: not name.endswith("data.pkl"))),
        "compressed": (unreadable, rewritten(lambda name: True, zipfile.ZIP_DEFLATED)),
        "a list": ("holds a list, not a checkpoint", lambda path: torch.save([1, 2], path)),
        "nothing in it": ("does not fit: lacks 'state_dict'", lambda path: torch.save({}, path)),
    }
    hostile = {
        "a pickle that runs a command": (unreadable, lambda path: path.write_bytes(pickle.dumps(Hostile(path)))),
        "a checkpoint that runs a command": (unreadable, lambda path: torch.save({"epoch": Hostile(path)}, path)),
        "an older pickle that does": (
            unreadable,
            lambda path: torch.save(Hostile(path), path, _use_new_zipfile_serialization=False),
        ),
    }
    weights = {
        "no first tensor": ("Missing key", change(state_dict=lambda d: dict(list(d.items())[1:]))),
        "a tensor more": ("Unexpected key", change(state_dict=lambda d: d | {"more": torch.zeros(1)})),
        "another shape": ("size mismatch", change(state_dict=first(lambda t: t[:1]))),
        "a NaN": ("1 tensors of state_dict hold NaN", change(state_dict=first(lambda t: t * float("nan")))),
        "a huge tensor of one value": (
            "mismatch",
            change(state_dict=first(lambda t: torch.zeros(1).expand(10**7, 10**7))),
        ),
        "no tensors": ("does not fit", change(state_dict=lambda d: dict.fromkeys(d, 1))),
        "another network": ("does not fit", change(state_dict=lambda d: {f"encoder.{n}": t for n, t in d.items()})),
    }
    state = {
        "generator cut": ("does not fit", change(generator_state=lambda g: g[:100])),
        "generator of floats": ("does not fit", change(generator_state=lambda g: g.float())),
        "momentum of another shape": (
            "momentum is not finite, or of",
            change(optimizer_state_dict=momentum(lambda t: t[:1])),
        ),
        "momentum of NaN": (
            "momentum is not finite",
            change(optimizer_state_dict=momentum(lambda t: t * float("nan"))),
        ),
        "learning rate negative": ("learning rate is", change(optimizer_state_dict=group(lr=-1.0))),
        "learning rate of text": ("learning rate is|does not fit", change(optimizer_state_dict=group(lr="fast"))),
        "momentum of another recipe": ("its settings are", change(optimizer_state_dict=group(momentum=0.5))),
        "schedule at another epoch": (
            "schedule is at epoch 7",
            change(schedule_state_dict=lambda s: s | {"last_epoch": 7}),
        ),
        "schedule of another recipe": ("its settings are", change(schedule_state_dict=lambda s: s | {"step_size": 1})),
    }
    results = {
        "a history of texts": (
            "history of epoch 1 cannot be true",
            change(history=lambda h: [h[0] | {"train_loss": "low"}]),
        ),
        "a history of NaN": (
            "history of epoch 1 cannot",
            change(history=lambda h: [h[0] | {"validation_loss": float("nan")}]),
        ),
        "a negative epoch": ("history of epoch 1 cannot", change(history=lambda h: [h[0] | {"epoch": -1}])),
        "an empty history": ("the best epoch is 1, but by the history it is 0", change(history=[])),
        "another best epoch": ("the best epoch is -5, but by the history", change(best_epoch=-5)),
        "another best loss": ("by the history it is", change(best_loss=float("nan"))),
        "a history of a text": ("does not fit", change(history="long")),
    }
    groups = {
        "cut": cuts,
        "foreign": foreign,
        "code in a pickle": hostile,
        "weights that do not fit": weights,
        "optimizer, schedule, generator": state,
        "history": results,
    }
    for fault, members in groups.items():
        for name, (says, make) in members.items():
            yield BrokenFile(name, fault, says, make)


def settings() -> Iterator[BrokenFile]:
    no_toml = "not a readable TOML file: ."
    broken = {
        "cut": (no_toml, content(b"[cubes")),
        "binary": (no_toml, content(b"\xff\xfe\x00")),
        "too deep": (no_toml, content(b"a = " + b"[" * 5000)),
        "a name twice": (no_toml, content(b"[cubes]\nseed = 1\nseed = 2")),
        "missing": (no_toml, lambda path: None),
        "a folder": (no_toml, lambda path: path.mkdir()),
    }
    unknown = {
        "a table": ("training = .*: no such setting", content(b"[training]\nepochs = 3")),
        "a setting": ("cubes.scale = 3: no such setting", content(b"[cubes]\nscale = 3")),
    }
    values = {
        "text for a number": ("preparation.margin_mm = 'wide'", content(b"[preparation]\nmargin_mm = 'wide'")),
        "NaN": ("preparation.margin_mm = nan", content(b"[preparation]\nmargin_mm = nan")),
        "infinity": ("learning_rate = inf", content(b"[pretraining.training]\nlearning_rate = inf")),
        "a negative margin": ("preparation.margin_mm = -1", content(b"[preparation]\nmargin_mm = -1")),
        "a spacing of 0": ("spacing_mm must be positive", content(b"[preparation]\nspacing_mm = [0.5, 0, 3]")),
        "a number beyond 64 bits": ("cubes.seed = 9", content(b"[cubes]\nseed = " + b"9" * 30)),
        "a million cubes a case": ("cubes.cubes_per_case = 1000000", content(b"[cubes]\ncubes_per_case = 1000000")),
    }
    for fault, members in [("broken TOML", broken), ("unknown names", unknown), ("values out of range", values)]:
        for name, (says, make) in members.items():
            yield BrokenFile(name, fault, says, make)
