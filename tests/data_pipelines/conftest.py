import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `synthetic`: importlib mode does not put the folder on the path


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from synthetic import write_all

    return write_all(tmp_path_factory.mktemp("stores"))
