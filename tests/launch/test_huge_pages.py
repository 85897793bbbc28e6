"""`gato.launch.huge_pages` in real processes: what malloc gives, and what a process begun anew keeps."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from gato.launch.huge_pages import BEGUN_ANEW, POLICY, VARIABLE

PROGRAM = """
import os, sys
from pathlib import Path
from gato.launch.huge_pages import use_huge_pages

use_huge_pages()
filled = b"x" * (1 << 27)
huge = next(line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("AnonHuge"))
print(os.environ.get("GLIBC_TUNABLES", "nothing"), int(huge.split()[1]) // 1024, *sys.argv[1:], sep="|")
"""


def on_request() -> bool:
    library, version = platform.libc_ver()
    modern = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return modern and POLICY.exists() and "[madvise]" in POLICY.read_text()


pytestmark = pytest.mark.skipif(not on_request(), reason="large pages are not given on request here")


def run(tunables: str | None, *arguments: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, BEGUN_ANEW)}
    if tunables is not None:
        environment[VARIABLE] = tunables
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip().split("|")


def test_large_blocks_lie_in_large_pages_and_the_arguments_stay() -> None:
    tunables, megabytes, *arguments = run(None, "two words", "--flag=")
    assert tunables == "glibc.malloc.hugetlb=1"
    assert int(megabytes) >= 100
    assert arguments == ["two words", "--flag="]


def test_other_tunables_stay() -> None:
    tunables, megabytes = run("glibc.malloc.trim_threshold=4096")
    assert tunables == "glibc.malloc.trim_threshold=4096:glibc.malloc.hugetlb=1"
    assert int(megabytes) >= 100


def test_the_users_own_choice_is_kept() -> None:
    tunables, megabytes = run("glibc.malloc.hugetlb=0")
    assert tunables == "glibc.malloc.hugetlb=0"
    assert int(megabytes) < 100


def test_a_machine_that_takes_the_tunables_away_is_asked_once() -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | {BEGUN_ANEW: "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nothing|")


def test_the_command_line_asks_for_them(tmp_path: Path) -> None:
    (tmp_path / "experiment.py").write_text("import os\nraise ValueError(os.environ.get('GLIBC_TUNABLES'))\n")
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, BEGUN_ANEW)}
    command = [sys.executable, "-m", "gato.launch.cli", "train", "--config=experiment.py", "--out=run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "glibc.malloc.hugetlb=1" in done.stderr
