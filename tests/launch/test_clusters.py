"""The scripts for clusters, as far as a machine without a cluster can tell: linted, and run against stand-ins."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from gato.launch import cli
from gato.tokenizers.errors import GatoError
from gato.training.setup import CACHE_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "launch" / "clusters"
SCRIPTS = sorted(CLUSTERS.glob("*.sh"))


def tool(name: str) -> str:
    """A program of the extra `dev`: beside the interpreter, whose folder need not be in the PATH."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert found is not None, f"{name} is not installed: pip install '.[dev]'"
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_pass_the_linter(script: Path) -> None:
    for linter in (["bash", "-n"], [tool("shellcheck"), "--severity=style"]):
        done = subprocess.run([*linter, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert script.stat().st_mode & stat.S_IXUSR


def test_the_dockerfile_passes_the_linter_and_copies_the_whole_package() -> None:
    file = CLUSTERS / "Dockerfile"
    done = subprocess.run([tool("hadolint"), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", file.read_text(), re.MULTILINE) for name in line.split()}
    linked = {path.name for path in (ROOT / "gato").iterdir() if path.is_symlink()}
    assert {"gato", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} | linked == copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("path", [*SCRIPTS, CLUSTERS / "gke_tpu.yaml"], ids=lambda path: path.name)
def test_the_examples_are_understood_by_the_command_line(path: Path) -> None:
    text = re.sub(r"\\\n# ", "", path.read_text())
    examples = re.findall(r"\.sh (--config=.*)$", text, re.MULTILINE) if path.suffix == ".sh" else [""]
    if path.suffix == ".yaml":
        examples = [" ".join(container(yaml.safe_load(text))["args"][1:])]
    assert len(examples) == 1
    cli.parse(["train", *shlex.split(examples[0])])


def container(jobset: dict[str, Any]) -> dict[str, Any]:
    (job,) = jobset["spec"]["replicatedJobs"]
    (found,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return found


# Fields of a JobSet (jobset.x-k8s.io/v1alpha2) and of the Job and Pod in it that the file uses: name -> type, or the
# fields below. A field that is not here is unknown to Kubernetes, or has to be looked up and added.
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": dict,
    "containers": [
        {
            "name": str,
            "image": str,
            "args": list,
            "env": [{"name": str, "value": str}],
            "securityContext": {"privileged": bool},
            "resources": {"limits": {"google.com/tpu": int}},
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
    "volumes": [
        {"name": str, "emptyDir": {"medium": str}},
        {"name": str, "persistentVolumeClaim": {"claimName": str}},
    ],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [{"action": str, "onExitCodes": {"operator": str, "values": list}}]},
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": dict},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"name": str, "action": str, "onJobFailureReasons": list}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def mistakes(value: Any, schema: Any, path: str = "") -> list[str]:
    """What is missing in `value`, unknown, or of another type than `schema` says. The last schema of a list is for all
    items from there on."""
    if isinstance(schema, type):
        return [] if isinstance(value, schema) else [f"{path}: {value!r} is no {schema.__name__}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        schemas = [schema[min(number, len(schema) - 1)] for number in range(len(value))]
        found = (mistakes(*pair, f"{path}[{number}]") for number, pair in enumerate(zip(value, schemas, strict=True)))
        return [text for texts in found for text in texts]
    if not isinstance(value, dict):
        return [f"{path}: no mapping"]
    wrong = [f"{path}.{name}: unknown" for name in value.keys() - schema]
    wrong += [f"{path}.{name}: missing" for name in schema.keys() - value]
    for name in value.keys() & schema:
        wrong += mistakes(value[name], schema[name], f"{path}.{name}")
    return wrong


def test_the_jobset_has_the_fields_of_its_schema() -> None:
    jobset = yaml.safe_load((CLUSTERS / "gke_tpu.yaml").read_text())
    assert not mistakes(jobset, JOBSET)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    jobset["spec"]["maxRestart"] = 1
    del jobset["metadata"]["name"]
    assert sorted(mistakes(jobset, JOBSET)) == [".metadata.name: missing", ".spec.maxRestart: unknown"]


def test_the_jobset_asks_for_as_many_hosts_as_its_slice_has() -> None:
    jobset = yaml.safe_load((CLUSTERS / "gke_tpu.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    rows, columns = map(int, job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    hosts = rows * columns // container(jobset)["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == hosts
    # Only what no restart can mend ends it for good.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"operator": "In", "values": [GatoError.status]}
    mounted = container(jobset)["volumeMounts"][0]["mountPath"]
    arguments = cli.parse(["train", *container(jobset)["args"][1:]])
    assert str(arguments.out).startswith(f"{mounted}/")
    assert f":{mounted}/" in arguments.config
    volumes = {volume["name"]: volume for volume in job["template"]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container(jobset)["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory"}  # what loader_workers send through
    environment = {variable["name"]: variable["value"] for variable in container(jobset)["env"]}
    assert environment[CACHE_VARIABLE].startswith(f"{mounted}/")  # a pod's own disk goes with it


def test_arguments_arrive_whole_on_the_workers_of_a_tpu_vm(tmp_path: Path) -> None:
    """A `gcloud` that hands the command to a shell, as ssh does, and a `sudo` that writes down what it was to run."""
    stopped = tmp_path / "stopped"
    sudo = f'[[ $2 == run ]] || {{ echo "$*" >>{stopped}; exit 1; }}; printf "%s\\n" "$@"'  # nothing ran before
    programs = {"gcloud": 'command="${!#}"; exec bash -c "${command#--command=}"', "sudo": sudo}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "TPU": "pod",
        "ZONE": "z",
        "IMAGE": "gato:tpu",
        "SHARED": "/a b",
    }
    arguments = ["--config=gato_79m:/a b/data", "--out", "/a b/it's", "--config.extra_tokens=('x', \"y\")"]
    script = str(CLUSTERS / "tpu_vm.sh")
    done = subprocess.run([script, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()
    assert command[:2] == ["docker", "run"]
    assert command[command.index("gato:tpu") + 1 :] == ["train", *arguments]
    assert "--volume=/a b:/a b" in command
    # The same line again: what the one before left running is stopped, by the name that it was given.
    assert "--name=gato" in command
    assert stopped.read_text().splitlines() == ["docker stop --time=120 gato", "docker container inspect gato"]
    assert f"--env={CACHE_VARIABLE}=/a b/cache/xla" in command
    del environment["IMAGE"]
    done = subprocess.run([script, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode
    assert "IMAGE: the image" in done.stderr
