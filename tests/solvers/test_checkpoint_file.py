"""The file of a checkpoint: no bit of it can be changed unnoticed, and a header asks for nothing unheard of."""

from __future__ import annotations

import json
import math
import random

import pytest
import safetensors
import safetensors.torch
import torch

import hesse
from hesse._solvers import checkpoint_file
from hesse._solvers.checkpoint_file import _seal

CPU = torch.device("cpu")
HEADER = {"question": "solve", "settings": {"tol": 1e-3}, "threads": 1, "decisions": {}, "operator": "Dense (3, 3) 0f"}


def write(path, **state):
    checkpoint_file.write(path, HEADER, {"count": 3, "x": torch.arange(3.0), **state}, repr)


def read(path):
    header, tensors = checkpoint_file.read(path)
    return header, checkpoint_file.saved(path, header, tensors, CPU)


def test_what_was_written_is_read_as_it_lay_in_memory(tmp_path):
    path = tmp_path / "state"
    written = {
        "numbers": [1, 2.5, None, "ü"],
        "columns": torch.arange(12.0).reshape(3, 4).mT,
        "part": torch.arange(20).reshape(4, 5)[:, 1:3],
        "none": torch.zeros(0, 3),
        "lone": torch.tensor(math.pi, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "short": torch.tensor([1.5, -2.5], dtype=torch.bfloat16),
    }
    write(path, **written)
    header, state = read(path)
    assert {name: header[name] for name in HEADER} == HEADER
    assert state.keys() == {"count", "x", *written}
    assert state["numbers"] == written.pop("numbers")
    for name, value in written.items():
        assert torch.equal(state[name], value)
        assert state[name].dtype == value.dtype
        assert state[name].stride() == value.stride()


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "state"
    write(path)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (place % 8, (place + 3) % 8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(hesse.CheckpointError, match="and is left as it is"):
                read(path)
    path.write_bytes(content)
    assert read(path)[1]["count"] == 3


def test_no_other_damage_goes_unnoticed(tmp_path):
    path = tmp_path / "state"
    write(path)
    content, draw = path.read_bytes(), random.Random(0)
    for _ in range(300):
        place, length = draw.randrange(len(content)), draw.randint(1, 64)
        damages = [
            content[:place] + bytes(length) + content[place + length :],
            content[:place] + content[place + length :],
            content[:place] + draw.randbytes(length) + content[place:],
            content[: place + 1] + content[place:],
        ]
        for changed in damages:
            if changed != content:
                path.write_bytes(changed)
                with pytest.raises(hesse.CheckpointError, match="and is left as it is"):
                    read(path)


def forge(path, change):
    """Change the header of a checkpoint, and seal it again."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["hesse"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
    change(header)
    text = json.dumps(header)
    safetensors.torch.save_file(tensors, path, {"hesse": text, "digest": _seal(text, tensors)})


FIELDS = ("version", *HEADER, "state", "places")
NOTHING_LIKE_IT = (None, True, "three", 2.5, [], [{}], -1)
# In JSON these are what the field may be.
FITTING = ("question=three", "operator=three")


def _changes():
    for field in FIELDS:
        yield f"no {field}", lambda header, field=field: header.pop(field)
        for value in NOTHING_LIKE_IT:
            if f"{field}={value}" not in FITTING:
                yield f"{field}={value}", lambda header, field=field, value=value: header.update({field: value})
    yield "another field", lambda header: header.update(more=1)
    for threads in (0, -1, 10**6, 2**31, 10**30):
        yield f"{threads} threads", lambda header, threads=threads: header.update(threads=threads)
    for stride in (-1, 2**40, 2**62, 10**30, 1.0, True, None, "1"):
        yield f"stride {stride}", lambda header, stride=stride: header["places"].update(x=[[stride], False])
    for place in (None, [], [[1]], [[1, 1], False], [[], False], [[1], 0], [[1], None], "x", {}, 5):
        yield f"place {place}", lambda header, place=place: header["places"].update(x=place)
    yield "no place", lambda header: header["places"].pop("x")
    yield "a place of nothing", lambda header: header["places"].update(y=[[1], False])


CHANGES = dict(_changes())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.one_in(4)
def test_a_header_that_asks_for_the_unheard_of_is_refused_in_a_sentence(change, tmp_path):
    path = tmp_path / "state"
    write(path)
    forge(path, lambda header: None)
    assert read(path)[1]["count"] == 3
    forge(path, CHANGES[change])
    content, threads = path.read_bytes(), torch.get_num_threads()
    with pytest.raises(
        hesse.CheckpointError, match=r"^The checkpoint \S+ .*, and is left as it is\. Give another path"
    ):
        read(path)
    assert path.read_bytes() == content
    assert torch.get_num_threads() == threads


def test_a_state_without_an_entry_is_refused_by_its_name(tmp_path):
    path = tmp_path / "state"
    write(path)
    with pytest.raises(hesse.CheckpointError, match=r"holds no run\.x, and is left as it is"):
        read(path)[1]["run.x"]
    assert read(path)[1].get("run.x") is None
    assert "run.x" not in read(path)[1]


def test_a_header_too_deep_to_read_is_refused(tmp_path):
    path = tmp_path / "state"
    text = '{"version": ' + "[" * 100_000 + "]" * 100_000 + "}"
    safetensors.torch.save_file({"": torch.zeros(0)}, path, {"hesse": text})
    with pytest.raises(hesse.CheckpointError, match="is damaged or no checkpoint of hesse"):
        read(path)


def test_a_checkpoint_of_the_version_before_which_had_no_digest_is_told_as_that(tmp_path):
    path = tmp_path / "state"
    header = json.dumps({"version": 2, **HEADER, "state": {}, "places": {}})
    safetensors.torch.save_file({"": torch.zeros(0)}, path, {"hesse": header})
    with pytest.raises(hesse.CheckpointError, match="is of version 2, not 8"):
        read(path)
