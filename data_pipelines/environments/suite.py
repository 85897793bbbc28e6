"""A suite: a family of tasks that comes with one installation, as an entry point of the group ``gato.suites`` names it.

The suites of this package and those of anybody else are found in the same way (`registry`); docs/suites.md has a
complete example.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence

from gato.data_pipelines.environments.base import Task, install_command


@dataclasses.dataclass(frozen=True)
class Suite:
    """What a package adds. Importing the module that holds it must not load a simulator.

    Attributes:
      name: also the entry point's name, and the part of its tasks' names before the slash.
      description: one line for `gato suites`.
      task_names: all tasks, "name/task". May load the simulator.
      make_task: the task of such a name. Only here the simulator has to be there.
      packages: what must be importable, by import name; `gato suites` looks for them without importing any.
      install: the one command that installs them.
      extra: of gato-jax, instead of `install`, for the suites that belong to it.
    """

    name: str
    description: str
    task_names: Callable[[], Sequence[str]]
    make_task: Callable[[str], Task]
    packages: tuple[str, ...] = ()
    install: str = ""
    extra: str = ""

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.packages if not _installed(package)]

    def way_out(self) -> str:
        """Where something is missing: what to do, for a message."""
        return f"in the checkout: {install_command(self.extra)}" if self.extra else self.install or "install it"


def _installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None  # None: somebody forbade its import
    return importlib.util.find_spec(package) is not None
