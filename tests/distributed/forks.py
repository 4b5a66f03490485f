"""Ranks that a script forks, which saves the seconds that importing torch takes in each.

The script runs nothing of PyTorch's in several threads before.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

torch.set_num_threads(1)


def ranks(
    size: int, folder: Path, work: Callable[[int], None], seconds: float = 60, *, joins: bool = True
) -> list[int]:
    """Run ``work(rank)`` in so many forked processes, which gloo joins; how each has ended: 0, or minus its signal.

    Where this is not to join them, ``work`` does it by the variables that torchrun sets.

    What does not end in time is killed, and told by an error.
    """
    store = folder / f"store-{os.urandom(4).hex()}" if joins else None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    os.environ |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ["TORCHELASTIC_RUN_ID"] = "forks"
    pids = [os.fork() or _child(size, rank, store, work) for rank in range(size)]
    left, ended = set(pids), {}
    limit = time.monotonic() + seconds
    while left and time.monotonic() < limit:
        for pid in list(left):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
                left.remove(pid)
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if left:
        raise TimeoutError(f"ranks {[pids.index(pid) for pid in left]} have hung")
    return [ended[pid] for pid in pids]


def _child(size: int, rank: int, store: Path | None, work: Callable[[int], None]) -> int:
    code = 1
    try:
        os.environ["RANK"] = str(rank)
        if store is not None:
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
            )
        work(rank)
        if store is not None:
            dist.destroy_process_group()
        code = 0
    except BaseException:
        sys.stderr.write(f"rank {rank}: {traceback.format_exc()}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing of the parent's is run at the end.
        os._exit(code)
