"""A folder's checksums: what is found, and that `sha256sum` finds the same."""

import subprocess

import pytest

from gato.training.manifest import damage, write_manifest


@pytest.fixture
def folder(tmp_path):
    for name, content in (("top", b"t"), ("a/x", b"1" * 5000), ("a/deep/y", b"2"), ("b/with space", b"")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_manifest(tmp_path)
    return tmp_path


def sha256sum(folder):
    command = ["sha256sum", "--check", "--quiet", "--strict", "manifest.sha256"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode


def test_an_untouched_folder_is_whole(folder):
    assert damage(folder) == []
    assert sha256sum(folder) == 0


@pytest.mark.parametrize("change", ["flip", "truncate", "remove", "add"])
def test_every_change_is_found_where_it_is_looked_for(folder, change):
    path = folder / "a" / "x"
    if change == "flip":
        path.write_bytes(path.read_bytes()[:2500] + b"3" + path.read_bytes()[2501:])
    elif change == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif change == "remove":
        path.unlink()
    else:
        (folder / "a" / "z").write_bytes(b"")
    found = damage(folder)
    assert len(found) == 1
    assert found[0].startswith("a/z: not in" if change == "add" else "a/x: ")
    assert damage(folder, ["a"]) == found
    assert damage(folder, ["b"]) == []
    assert change == "add" or sha256sum(folder) != 0


def test_processes_that_share_the_work_find_all_together(folder):
    for name in ("a/x", "a/deep/y", "top"):
        (folder / name).write_bytes(b"other")
    shares = [damage(folder, share=(i, 3)) for i in range(3)]
    assert sorted(found for share in shares for found in share) == damage(folder)
    assert max(map(len, shares)) < 3


def test_a_damaged_manifest_is_named(folder):
    manifest = folder / "manifest.sha256"
    manifest.write_bytes(manifest.read_bytes()[:100])
    assert damage(folder)[0].startswith("manifest.sha256: ")
    manifest.write_bytes(b"")
    assert any("not in manifest.sha256" in found for found in damage(folder))
