"""`gato generate`: what is printed is what the agent writes, and what cannot be written is one line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gato.inference.agent import Agent
from gato.launch import cli
from gato.model.presets import preset
from gato.model.transformer import init_params
from gato.recipes.recipe import get_recipe
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint import Checkpoints
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta
from gato.training.step import TrainState

IMAGE, TEXT = LeafSpec("image", (16, 32, 3)), LeafSpec("text")
ARM = EpisodeSpec.of({"hand": LeafSpec("continuous", (3,))}, LeafSpec("discrete", values=3))
DOCUMENTS = {
    "rooms/captions": {"image": IMAGE, "text": TEXT},
    "rooms/questions": {"image": IMAGE, "question": TEXT, "answer": TEXT},
    "books/plain": {"text": TEXT},
}


def save(folder: Path, documents: tuple[str, ...]) -> Path:
    text = TextTokenizer.default()
    vocabulary = Vocabulary(text.size)
    config = preset("tiny", vocabulary)
    sources = {"arm/reach": SourceMeta(ARM, "arm/reach")}
    sources |= {name: SourceMeta(EpisodeSpec.of(DOCUMENTS[name], {}, "document")) for name in documents}
    meta = CheckpointMeta(
        model=config,
        vocabulary=vocabulary,
        text_model=text.model_bytes,
        recipe="gato",
        layout=get_recipe("gato").layout,
        sources=sources,
        length=128,
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(1, TrainState(step=jnp.asarray(1), params=params, opt_state=jnp.zeros(1)), {}, meta)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("run"), tuple(DOCUMENTS))


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that never saw text."""
    return save(tmp_path_factory.mktemp("control"), ())


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
