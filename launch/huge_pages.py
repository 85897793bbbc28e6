"""Large pages for a process's memory: a CPU's steps become faster by what the kernel and the TLB cost with small ones.

XLA takes a step's temporaries from malloc and gives them back after the step. In pages of 4 KiB each step then faults
on every page of them again, and a matrix product misses the TLB at every few rows. glibc asks for pages of 2 MiB if a
tunable of its own says so, which it reads when a process begins and never again: hence the second beginning here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
BEGUN_ANEW = (
    "GATO_BEGUN_ANEW"  # a wrapper, or the loader of a privileged Python, may take the tunables away: never twice
)
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Begins this process anew, as the same one and with the same arguments, with malloc asking for large pages.

    Returns where that changes nothing: they are on or off for all programs, this is not Linux, or the user's own
    `GLIBC_TUNABLES` names the tunable (``glibc.malloc.hugetlb=0`` keeps small pages). To be called before anything has
    been done. Child processes inherit the setting.
    """
    tunables = os.environ.get(VARIABLE, "")
    if TUNABLE in tunables or BEGUN_ANEW in os.environ or not _on_request():
        return
    os.environ[BEGUN_ANEW] = "1"
    os.environ[VARIABLE] = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _on_request() -> bool:
    """Whether the kernel gives large pages to a program that asks for them, and to no other."""
    try:
        return "[madvise]" in POLICY.read_text()
    except OSError:
        return False
