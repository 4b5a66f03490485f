"""Run by torchrun: the checks of the modules that are named, one after another in one process group."""

import importlib
import sys
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist

if __name__ == "__main__":
    # PyTorch 2.13 warns of names that FSDP itself calls.
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for module in sys.argv[1:]:
        for check in importlib.import_module(f"tests.distributed.{module}").CHECKS:
            check()
            # In one piece: ranks write to one pipe.
            sys.stdout.write(f"rank {dist.get_rank()}: {check.__name__} of {module} held\n")
            sys.stdout.flush()
    dist.destroy_process_group()
