"""Memory that a training step frees is kept for the next one."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
GIBIBYTE = 2**30


def keep_freed_memory() -> bool:
    """Have the C library keep large freed blocks instead of giving them back to the system.

    Every step asks for the same activations again. Without this each large one is mapped anew and
    its pages are cleared on first touch, and a step on a processor takes 5 to 29 percent longer
    (`docs/lab-notes.md`). It holds for the whole process.

    Returns:
        Whether it was done: only glibc, the C library of most Linux systems, can.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, such as musl
        return False
    values = {M_MMAP_THRESHOLD: GIBIBYTE, M_TRIM_THRESHOLD: 2 * GIBIBYTE - 1, M_TOP_PAD: 2**26}
    return all([mallopt(name, value) == 1 for name, value in values.items()])
