"""The wheel: nothing outside `gato/`, and PyPI's `tokenizers` survives beside it."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TREE = ("gato", "tokenizers", "data_pipelines", "launch", "client", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build/ or egg-info of the checkout gets in or stays behind."""
    copy = tmp_path_factory.mktemp("tree")
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((copy / "dist").glob("*.whl"))


def test_holds_nothing_outside_gato(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "gato",
        next(n for n in names if ".dist-info/" in n).split("/")[0],
    }


def test_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for folder in ("tokenizers", "data_pipelines", "launch"):
        expected |= {f"gato/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*") if _is_shipped(p)}
    expected |= {f"gato/client/{p.name}" for p in (ROOT / "client" / "gato_client").glob("*.py")}
    expected |= {str(p.relative_to(ROOT)) for p in (ROOT / "gato").rglob("*") if _is_shipped(p)}
    assert not expected - names


def _is_shipped(path: Path) -> bool:
    return path.is_file() and path.suffix in {".py", ".model", ".json", ".css"} and "__pycache__" not in path.parts


def test_the_client_alone_is_a_package_without_jax(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "client", tmp_path / "client", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tmp_path / "client")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    archive = zipfile.ZipFile(next((tmp_path / "client" / "dist").glob("*.whl")))
    names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {f"gato_client/{p.name}" for p in (ROOT / "client" / "gato_client").glob("*.py")}
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    needed = {line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist")}
    assert {name.partition(">")[0] for name in needed} == {"msgpack", "numpy", "websockets"}


def test_lives_beside_the_tokenizers_of_pypi(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    # A package of the same top-level name and layout as PyPI's, there before ours is installed.
    (packages / "tokenizers").mkdir()
    (packages / "tokenizers" / "__init__.py").write_text("class Tokenizer:\n    origin = 'pypi'\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # numpy and the others come from the environment of this test; ours must come from the wheel.
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    program = (
        "import tokenizers, gato.tokenizers.vocabulary, gato.launch.cli, gato.data_pipelines.episode as e\n"
        "assert tokenizers.Tokenizer.origin == 'pypi'\n"
        f"assert e.__file__.startswith({str(packages)!r}), e.__file__\n"
        "assert gato.tokenizers.vocabulary.Vocabulary().separator == 33024"
    )
    done = subprocess.run([str(python), "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(python.parent / "gato"), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
