"""What is said of a package that is not installed."""

from __future__ import annotations

import pytest

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    command = r'pip install --constraint constraints.txt --editable "\.\[formats\]"'
    with pytest.raises(SourceError, match=f"reading a file needs the package nobody_has_this: in the .*{command}"):
        require("nobody_has_this", "a file")
