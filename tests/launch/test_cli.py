"""The command line's promises: exit status, one line on stderr, no traceback, quick help."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gato.evaluation.jobs import Protocol
from gato.launch import cli
from gato.tokenizers.errors import GatoError

COMMANDS = ("quickstart", "collect", "plan", "train", "evaluate", "generate", "serve", "report")


@pytest.mark.parametrize("command", ["", "data", *COMMANDS])
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"gato {command}" in capsys.readouterr().out.partition("examples:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module(command: str) -> None:
    assert callable(importlib.import_module(f"gato.launch.{command}").run)


def test_help_does_not_import_the_heavy_packages() -> None:
    program = (
        "import sys\nfrom gato.launch import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'jax', 'numpy', 'rich', 'ml_collections', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluat"], "did you mean 'evaluate'?"),
        (["generate"], "name one run or checkpoint: gato generate RUN, or"),
        (["generate", "a", "b", "--limit=3", "c"], "unrecognized arguments: c"),
        (["generate", "--checkpoint=x", "a", "b"], "name one run or checkpoint"),
        (["serve"], "name one run or checkpoint: gato serve RUN, or"),
        (["serve", "x", "--checkpoint=x"], "name one run or checkpoint"),
        (["generate", "--checkpoint=x", "--temperature=-1"], "'-1' is no number >= 0"),
        (["generate", "--checkpoint=x"], "no such directory"),
        (["serve", "--checkpoint=x", "--idle=soon"], "'soon' is no time"),
        (["serve", "--checkpoint=x", "--memory=all"], "--memory 'all' is not possible"),
        (["serve", "--checkpoint=x", "--host=0.0.0.0"], "a token is needed"),
        (["data", "impor", "a", "b"], "no command 'impor'; did you mean 'import'?"),
        (["data", "import", "a", "b", "--bad", "ski"], "--bad 'ski' is not possible; did you mean 'skip'?"),
        (["quickstart", "--budget", "soon"], "'soon' is no time"),
        (["quickstart", "--seed", "-1"], "--seed"),
        (["quickstart", "--seed", "10000"], "--seed: 10000 is above 9999"),
        (["collect", "--seed", "10000", "--out", "x"], "--seed: 10000 is above 9999"),
        (["train", "--out", "x"], "--config"),
        (["quickstart", "--config.seed=1"], "only gato train and gato plan take overrides"),
        (["report", "nowhere"], "no run here"),
        (["evaluate", "x", "--episodes", "0"], "'0' is no whole number >= 1"),
        (["evaluate"], "name one run or checkpoint"),
        (["evaluate", "x", "--prompt", "begining"], "did you mean 'beginning'?"),
        (["evaluate", "x", "--memory=memry"], "did you mean 'memory'?"),
        (["evaluate", "x", "--prompt-tokens=0"], "'0' is no whole number >= 1"),
        (["collect", "--processes", "0", "--out", "x"], "'0' is no whole number >= 1"),
        (["train", "--config", "x.py", "--out"], "--out"),
        (["train", "--config=gato_97m", "--out", "x"], "did you mean 'gato_79m'?"),
        (["plan", "--config=gato_79m", "--topology=h20:1x8"], "did you mean 'h200'?"),
        (["plan", "--config=gato_79m", "--topology=v4:8x8"], "e.g. v4:8x8x4"),
        (["plan", "--config=gato_79m", "--topology=v5e:4x4", "--mesh=4x4"], "'4x4' is no mesh"),
        (["plan", "--config=gato_79m", "--topology=h200:1x8", "--mesh=3,1,1"], "does not fit 8 device(s)"),
        (["plan", "--config=gato_79m", "--topology=h200:1x8", "--targets=2"], "'2' is no share"),
        (["plan", "--config=gato_79m", "--topology=h200:1x8", "--tokens=many"], "--tokens: 'many' is no number > 0"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["measure_references", "write_catalogue"])
def test_a_program_beside_it_ends_alike(program: str) -> None:
    command = [sys.executable, "-m", f"gato.data_pipelines.{program}", "babiai"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("gato: unknown suite 'babiai'")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GatoError("a\nb"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_while_running(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(arguments: object) -> None:
        raise error

    monkeypatch.setattr("gato.launch.report.run", run)
    assert cli.main(["report", "x"]) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_table_below_the_line_keeps_its_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(arguments: object) -> None:
        raise GatoError("other\nvalues\n\n  field  saved\n  seed   0")

    monkeypatch.setattr("gato.launch.report.run", run)
    assert cli.main(["report", "x"]) == 2
    assert capsys.readouterr().err == "gato: other values\n  field  saved\n  seed   0\n"


@pytest.mark.parametrize(
    ("argv", "way_on"),
    [
        (["report", "x"], ""),
        (["data", "check", "x"], ""),
        (["data", "import", "x", "y"], "; run the same command again to go on"),
        (["collect", "--out", "x"], "; run the same command again to go on"),
    ],
)
def test_sigterm_ends_a_command_as_ctrl_c_does(
    argv: list[str], way_on: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    def run(arguments: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            closed.append(True)

    monkeypatch.setattr(f"gato.launch.{argv[0]}.run", run)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(argv) == 143
    assert closed == [True]
    assert capsys.readouterr().err == f"interrupted{way_on}\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_our_own_bugs_and_the_debug_switch_keep_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(arguments: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "a bug of ours")

    def mistake(arguments: object) -> None:
        raise GatoError("x")

    monkeypatch.setattr("gato.launch.report.run", bug)
    with pytest.raises(FileNotFoundError):
        cli.main(["report", "x"])
    monkeypatch.setenv("GATO_DEBUG", "1")
    monkeypatch.setattr("gato.launch.report.run", mistake)
    with pytest.raises(GatoError):
        cli.main(["report", "x"])


@pytest.mark.parametrize(("text", "seconds"), [("20m", 1200), ("2h", 7200), ("900s", 900), ("1.5h", 5400)])
def test_budget(text: str, seconds: float) -> None:
    assert cli.parse(["quickstart", "--budget", text]).budget == seconds


def test_default_budget_is_read_as_a_time() -> None:
    assert isinstance(cli.parse(["quickstart"]).budget, float)


def test_an_evaluation_goes_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def evaluate(*arguments: object, **options: object) -> dict[str, object]:
        seen.update(options)
        seen.update(checkpoint=arguments[0], protocol=arguments[2])
        return {"tasks": {}}

    monkeypatch.setattr("gato.launch.evaluate.evaluate", evaluate)
    assert cli.main(["evaluate", "run", "--tasks", "a/b", "--out", str(tmp_path / "here")]) == 0
    assert seen["out"] == tmp_path / "here"
    assert cli.main(["evaluate", "--checkpoint=run", "--suites", "a", "b", "--step-timeout=5s"]) == 0
    assert (seen["checkpoint"], seen["suites"], seen["step_seconds"]) == (Path("run"), ["a", "b"], 5.0)
    assert cli.main(["evaluate", "run", "--temperature=0.5", "--top-k=3", "--top-p=0.9", "--seed=4"]) == 0
    assert seen["protocol"] == Protocol(temperature=0.5, top_k=3, top_p=0.9, seed=4)


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["evaluate", "runs/a"], None),
        (["evaluate", "--episodes=3", "--checkpoint=runs/a"], None),
        (["serve", "--port=0", "runs/a"], None),
        (["generate", "runs/a", "--limit=9"], ""),
        (["generate", "--checkpoint", "runs/a"], ""),
        (["generate", "runs/a", "Once upon"], "Once upon"),
        (["generate", "runs/a", "--limit=9", "Once upon"], "Once upon"),
        (["generate", "--limit=9", "runs/a", "Once upon"], "Once upon"),
        (["generate", "--checkpoint=runs/a", "--limit=9", "Once upon"], "Once upon"),
        (["generate", "Once upon", "--checkpoint=runs/a"], "Once upon"),
    ],
)
def test_a_run_is_named_alike_by_all_that_act(words: list[str], prompt: str | None) -> None:
    arguments = cli.parse(words)
    assert arguments.checkpoint == Path("runs/a")
    assert getattr(arguments, "prompt", None) == prompt or arguments.command != "generate"


def test_overrides_are_gathered() -> None:
    arguments = cli.parse(["train", "--config=a.py", "--config.x.y=1", "--out", "r", "--config.z=2"])
    assert arguments.overrides == ["x.y=1", "z=2"]
    assert arguments.config == "a.py"


@pytest.mark.slow
def test_help_is_quick() -> None:
    """Much quicker than importing JAX alone; the fast test above holds the cause."""

    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        return time.perf_counter() - began

    assert 2 * seconds("-m", "gato.launch.cli", "--help") < seconds("-c", "import jax")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_where_a_directory_is_wanted(
    out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("minigrid")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert cli.main(["collect", "babyai/GoToLocal", "--episodes", "1", "--processes", "1", "--out", out]) == 2
    error = capsys.readouterr().err
    assert "file" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert (tmp_path / "file").read_text() == "mine"
