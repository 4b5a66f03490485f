"""Files are written whole or not at all, and what killed processes leave is cleaned up."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hesse._base import files

# Says that it writes, and then waits.
WRITER = """
import sys, time
from pathlib import Path
from hesse._base import files

with files.whole(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of")
    (temporary.parent / ".tmp123456").write_bytes(b"a writer's own temporary file")
    print("writing", flush=True)
    time.sleep(600)
"""


def writing(path: Path) -> subprocess.Popen:
    """A process that is in the midst of writing that file."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("name", ["state", "lock", "[a]*?.x"])
@pytest.mark.one_in(3)
def test_what_a_killed_writer_leaves_goes_at_the_next_start(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"the old one")
    kill(writing(path))
    assert len(list(tmp_path.iterdir())) == 2
    with files.whole(path) as temporary:
        assert len(list(tmp_path.iterdir())) == 2
        temporary.write_bytes(b"the new one")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"the new one"


def test_a_writer_that_lives_is_left_alone(tmp_path):
    path = tmp_path / "state"
    process = writing(path)
    before = list(tmp_path.iterdir())
    files.clean(path)
    assert list(tmp_path.iterdir()) == before
    kill(process)
    files.clean(path)
    assert list(tmp_path.iterdir()) == []


def test_this_process_is_left_alone_too(tmp_path):
    path = tmp_path / "state"
    with files.whole(path) as temporary:
        files.clean(path)
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"


def test_a_writer_killed_before_it_could_lock_is_cleaned_up(tmp_path):
    (tmp_path / ".state.0123abcd.tmp").mkdir()
    files.clean(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_cleaned_up(tmp_path):
    path = tmp_path / "state"
    others = [
        ".state.0123abcd.tmp.old",
        ".other.0123abcd.tmp",
        ".state.backup.tmp",
        "state.0123abcd.tmp",
        ".stateX0123abcd.tmp",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    files.clean(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(others)


def test_cleaning_beside_a_file_that_has_no_folder_does_nothing(tmp_path):
    files.clean(tmp_path / "nowhere" / "state")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    path = tmp_path / "state"

    def write():
        with files.whole(path) as temporary:
            temporary.write_bytes(b"half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), os.strerror(errno.ENOSPC)),
        (SafetensorError("Error while serializing: I/O error: whatever (os error 28)"), os.strerror(28)),
        (SafetensorError("Error while serializing:\n something  else."), "Error while serializing: something else"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_reason_is_that_of_the_operating_system(error, words):
    assert files.reason(error) == words
