"""Memory that a training step frees stays with the process."""

import os
import subprocess
import sys

import pytest

# page faults of ten rounds of a large allocation, before and after
SCRIPT = """
import resource, torch
from zoo.training.memory import keep_freed_memory

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before, done = faults(), keep_freed_memory()
torch.ones(4_000_000)
print(before, done, faults())
"""


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="only glibc keeps memory"
)
def test_freed_memory_is_used_again() -> None:
    environment = os.environ | {"GLIBC_TUNABLES": ""}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment
    )
    before, done, after = result.stdout.split()
    assert done == "True"
    assert int(after) < int(before) / 10
