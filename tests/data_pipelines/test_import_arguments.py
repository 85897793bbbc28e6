"""What is said about an import: the same words on our own command line and on that of Apache Beam."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from gato.data_pipelines import import_beam
from gato.data_pipelines.import_arguments import SHOWN, add_import_arguments, reference_of, report_of
from gato.data_pipelines.import_source import Imported
from gato.data_pipelines.readers.registry import SourceReference
from gato.launch.cli import main


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z]+", text.partition("examples:")[0]))


def test_beam_takes_the_same_options(capsys):
    with pytest.raises(SystemExit):
        main(["data", "import", "--help"])
    ours = options(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        import_beam.main(["--help"])
    assert options(capsys.readouterr().out) == ours - {"--processes"}
    assert {"--values", "--name", "--path", "--format", "--bad"} < ours


def test_a_misspelt_option_is_not_taken_for_one_of_beams(capsys):
    with pytest.raises(SystemExit):
        import_beam.main(["source", "dest", "--valuse", "actions.action=3", "--", "--runner=DirectRunner"])
    assert "unrecognized arguments: --valuse" in capsys.readouterr().err


def test_the_words_become_a_reference():
    parser = argparse.ArgumentParser()
    add_import_arguments(parser)
    words = ["a.py:B", "out", "--path", "p", "--format", "rlds", "--name", "n", "--values", "x=3", "--values", "y=4"]
    arguments = parser.parse_args(words)
    assert reference_of(arguments) == SourceReference("a.py:B", "p", "rlds", (("x", 3), ("y", 4)), "n")
    assert (arguments.dest, arguments.bad) == (Path("out"), "fail")


def test_what_was_skipped_is_said_but_not_all_of_it():
    done = Imported(Path("s"), 1000, 20_000, [(number, "bad") for number in range(50)], already_there=False)
    lines = list(report_of(done))
    assert lines[0] == "s: imported: 1,000 episodes, 20,000 timesteps"
    assert "50" in lines[1]
    assert len(lines) == 2 + SHOWN


def test_one_is_singular_and_documents_are_not_episodes():
    done = Imported(Path("s"), 1, 1, [(3, "bad")], already_there=False, empty=1)
    assert list(report_of(done)) == [
        "s: imported: 1 episode, 1 timestep",
        "left out 1 empty document",
        "skipped 1 bad episode or file (all in s/skipped.jsonl):",
        "  record 3: bad",
    ]
    done = Imported(Path("s"), 2000, 2000, [], already_there=True, kind="document")
    assert list(report_of(done)) == ["s: was imported before: 2,000 documents"]
