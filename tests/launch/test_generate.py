"""`gato generate`: what is printed is what the agent writes, and what cannot be written is one line."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato.inference.agent import Agent
from gato.launch import cli
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.training.checkpoint_meta import SourceMeta

IMAGE, TEXT = LeafSpec("image", (16, 32, 3)), LeafSpec("text")
ARM = EpisodeSpec.of({"hand": LeafSpec("continuous", (3,))}, LeafSpec("discrete", values=3))
CONTROL = {"arm/reach": SourceMeta(ARM, "arm/reach")}
DOCUMENTS = {
    "rooms/captions": {"image": IMAGE, "text": TEXT},
    "rooms/questions": {"image": IMAGE, "question": TEXT, "answer": TEXT},
    "books/plain": {"text": TEXT},
}


@pytest.fixture(scope="module")
def run(save_untrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = {name: SourceMeta(EpisodeSpec.of(leaves, {}, "document")) for name, leaves in DOCUMENTS.items()}
    return save_untrained(tmp_path_factory.mktemp("run"), CONTROL | documents)


@pytest.fixture(scope="module")
def control(save_untrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that never saw text."""
    return save_untrained(tmp_path_factory.mktemp("control"), CONTROL)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file of another size and with transparency."""
    path = tmp_path_factory.mktemp("pictures") / "room.png"
    pixels = np.random.default_rng(0).integers(256, size=(40, 60, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(path)
    return path


def test_a_text_a_caption_and_an_answer(run, picture, capsys):
    with Image.open(picture) as file:
        seen = np.asarray(file.convert("RGB").resize((32, 16), Image.Resampling.LANCZOS))
    agent = Agent.from_checkpoint(run)
    cases = (
        ([], "rooms/captions", {"image": [seen]}),
        (["--question=how many?"], "rooms/questions", {"image": [seen], "question": ["how many?"]}),
    )
    for options, source, documents in cases:
        agent = Agent.from_checkpoint(run, seed=3)
        expected = agent.generate(source, documents, begin="a", limit=9, top_k=50)[0]
        arguments = [f"--checkpoint={run}", f"--image={picture}", "--limit=9", "--top-k=50", "--seed=3", *options]
        assert cli.main(["generate", "a", *arguments]) == 0
        assert "a" + capsys.readouterr().out == expected + "\n"
    assert cli.main(["generate", f"--checkpoint={run}", "Once upon", "--limit=5", "--temperature=0"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_caption_of_a_network_whose_documents_hold_several_pairs(save_untrained, picture, tmp_path, capsys):
    """The first pair is written as one alone would be; a question without its answer is no caption."""
    pairs = {f"{name}_{place}": leaf for place in (1, 2) for name, leaf in DOCUMENTS["rooms/captions"].items()}
    questions = {f"{name}_{place}": leaf for place in (1, 2) for name, leaf in DOCUMENTS["rooms/questions"].items()}
    leaves = {"a/questions": questions, "b/pairs": pairs}
    run = save_untrained(
        tmp_path / "run", {name: SourceMeta(EpisodeSpec.of(given, {}, "document")) for name, given in leaves.items()}
    )
    with Image.open(picture) as file:
        seen = np.asarray(file.convert("RGB").resize((32, 16), Image.Resampling.LANCZOS))
    documents = {"image_1": [seen], "question_1": ["why?"]}
    for options, source, given in (([], "b/pairs", 1), (["--question=why?"], "a/questions", 2)):
        expected = Agent.from_checkpoint(run, seed=3).generate(
            source, dict(list(documents.items())[:given]), begin="a", limit=9
        )
        arguments = [f"--checkpoint={run}", f"--image={picture}", "--limit=9", "--seed=3", *options]
        assert cli.main(["generate", "a", *arguments]) == 0
        assert "a" + capsys.readouterr().out == expected[0] + "\n"


def test_a_chat_answers_each_line_until_the_input_ends(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nwho are you?\n"))
    assert cli.main(["generate", "--chat", f"--checkpoint={run}", "--limit=5", "They talk."]) == 0
    lines = capsys.readouterr().out
    assert lines.count("Gato:") == 2


def test_a_line_that_is_too_long_does_not_end_a_chat(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n" + "word " * 200 + "\nwho are you?\n"))
    assert cli.main(["generate", "--chat", f"--checkpoint={run}", "--limit=5", "They talk."]) == 0
    out, error = capsys.readouterr()
    assert out.count("Gato:") == 3
    assert error.startswith("gato: the prompt has")
    assert error.count("\n") == 1


class Signalled(io.StringIO):
    """A terminal whose user sends a signal at the first piece of the first answer."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number: int | None = number

    def write(self, text: str) -> int:
        number = self.number
        if number is not None and text and self.getvalue():
            self.number = None
            signal.raise_signal(number)
        return super().write(text)


@pytest.mark.parametrize(("number", "status", "answers"), [(signal.SIGINT, 0, 2), (signal.SIGTERM, 143, 1)])
def test_ctrl_c_ends_an_answer_and_sigterm_the_chat(run, number, status, answers, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nwho are you?\n"))
    monkeypatch.setattr(sys, "stdout", Signalled(number))
    assert cli.main(["generate", "--chat", f"--checkpoint={run}", "--limit=5", "They talk."]) == status
    assert sys.stdout.getvalue().count("Gato:") == answers


def test_bytes_that_are_no_text_do_not_end_a_chat(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\nwho are you?\n"), "utf-8"))
    assert cli.main(["generate", "--chat", f"--checkpoint={run}", "--limit=5", "They talk."]) == 0
    assert capsys.readouterr().out.count("Gato:") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image=nowhere.png"], "nowhere.png: cannot read the image: No such file"),
        (["--image=words.txt"], "words.txt: is no image"),
        (["--image=half.png"], "half.png: cannot read the image"),
        (["--question=why?"], "no source of this checkpoint writes text from text"),
        (["--source=rooms/caption"], "did you mean 'rooms/captions'"),
        (["--source=books/plain", "--image=room.png"], "books/plain does not write text from image"),
        (["word " * 200], "the prompt has"),
    ],
)
def test_what_cannot_be_written_is_one_line(run, picture, options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "room.png").write_bytes(picture.read_bytes())
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:3000])
    assert cli.main(["generate", f"--checkpoint={run}", *options]) == 2
    out, error = capsys.readouterr()
    assert message in error
    assert error.count("\n") == 1
    assert out == ""


def test_a_network_without_text_says_so(control, capsys):
    assert cli.main(["generate", f"--checkpoint={control}", "hello"]) == 2
    assert "this checkpoint knows no text" in capsys.readouterr().err
