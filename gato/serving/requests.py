"""What clients send -> checked values: whoever sends something wrong is told what, and nothing wrong goes further."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gato.data_pipelines.episode import Episode, check_episode
from gato.inference.observations import stack_observations
from gato.tokenizers.errors import GatoError, SpecError
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec

LONGEST_TEXT = 1 << 16  # characters
# Of a prompt's texts, each counted as long as the longest: so wide are the arrays of their tokens.
LONGEST_TEXTS = 1 << 22
_LONGEST_NAME = 200
_DTYPES = {"continuous": np.float64, "discrete": np.int32}


class RequestError(GatoError):
    """A client's mistake; the message is its answer."""


@dataclasses.dataclass(frozen=True)
class OpenRequest:
    """A session is wanted.

    Attributes:
      source: name of a source or task.
      prompt: leaves of a demonstration ``{"observations", "actions", "rewards"}``, the name of a source, or None.
      target, seed: as in `gato.client.Client.open`.
    """

    source: str
    prompt: Mapping[str, Any] | str | None
    target: float | None
    seed: int | None

    @staticmethod
    def read(message: Mapping[str, Any]) -> OpenRequest:
        _only(message, {"type", "source", "prompt", "target", "seed"})
        source, prompt = message.get("source"), message.get("prompt")
        if not isinstance(source, str):
            raise RequestError('open: "source" must be the name of a source')
        if prompt is not None and not isinstance(prompt, (str, dict)):
            raise RequestError('open: "prompt" must be a demonstration, the name of a source, or nothing')
        seed = message.get("seed")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
            raise RequestError("open: seed must be a whole number from 0 to 2**32 - 1")
        target = _number(message.get("target"), "open: target")
        return OpenRequest(source[:_LONGEST_NAME], prompt, target, seed)


def read_prompt(prompt: Mapping[str, Any], spec: EpisodeSpec, needs_rewards: bool) -> Episode:
    """The demonstration in an `OpenRequest`. Raises RequestError or SpecError: it does not match the spec."""
    _only(prompt, {"observations", "actions", "rewards"}, "prompt")
    observations = read_leaves(prompt.get("observations"), "prompt: observations")
    actions = read_leaves(prompt.get("actions"), "prompt: actions")
    steps = min(map(_length, [*observations.values(), *actions.values()]), default=0)
    rewards = prompt.get("rewards")
    if rewards is None:
        if needs_rewards:
            raise RequestError("prompt: this recipe conditions on rewards; send rewards, one for each timestep")
        rewards = np.zeros(steps, np.float32)
    rewards = _array(rewards, "prompt: rewards").astype(np.float32)
    if rewards.ndim != 1:
        raise RequestError(f"prompt: rewards has shape {rewards.shape}, one number for each timestep is wanted")
    for leaves, given in ((spec.observations, observations), (spec.actions, actions)):
        for path, leaf in leaves.items():
            if leaf.modality == "text" and path in given:
                if not isinstance(given[path], list):
                    raise RequestError(f"prompt: leaf {path!r} must be a list of texts, one for each timestep")
                longest = _check_texts(given[path], f"prompt: leaf {path!r}")
                if len(given[path]) * longest > LONGEST_TEXTS:
                    raise RequestError(
                        f"prompt: leaf {path!r}: {len(given[path]):,} texts of up to {longest:,} characters; their "
                        f"product is at most {LONGEST_TEXTS:,}: show fewer timesteps or shorter texts"
                    )
            if leaf.modality != "text" and path in given:
                given[path] = _array(given[path], f"prompt: leaf {path!r}")
                if given[path].ndim == 0:
                    raise RequestError(f"prompt: leaf {path!r} is one number, one for each timestep is wanted")
    episode = Episode(observations, actions, rewards)
    check_episode(episode, spec, "prompt")
    return episode


def read_act(
    message: Mapping[str, Any], spec: EpisodeSpec, tokenizer: SequenceTokenizer, longest: int
) -> tuple[dict[str, Any], float | None]:
    """(observation, reward) of an act message, of which the agent will refuse nothing.

    ``longest``: most tokens of an observation. Raises RequestError or SpecError; the message names the leaf.
    """
    _only(message, {"type", "observation", "reward"})
    given = read_leaves(message.get("observation"), "act: observation")
    observation = {
        path: given[path] if leaf.modality == "text" else _array(given[path], f"act: observation: leaf {path!r}")
        for path, leaf in spec.observations.items()
        if path in given
    }
    missing = [path for path in spec.observations if path not in given]
    if missing:
        raise RequestError(
            f"act: observation: leaf {missing[0]!r} is missing; it has {', '.join(sorted(given))[:500] or 'none'}"
        )
    unknown = [path for path in given if path not in spec.observations]
    if unknown:
        raise RequestError(
            f"act: observation: leaf {unknown[0][:_LONGEST_NAME]!r} is not in the spec, which has "
            f"{', '.join(spec.observations)}"
        )
    _check_texts(observation.values(), "act: observation")
    try:
        tokens = count_tokens(observation, spec, tokenizer)
    except SpecError as error:
        raise RequestError(f"act: {str(error).replace(' of environment 0', '')}") from None
    if tokens > longest:
        raise RequestError(f"act: the observation has {tokens} tokens, at most {longest} are possible")
    # One dtype for each modality, so that a batch of several sessions has none that depends on the others.
    for path, leaf in spec.observations.items():
        if leaf.modality in _DTYPES:
            observation[path] = observation[path].astype(_DTYPES[leaf.modality])
    return observation, _number(message.get("reward"), "act: reward")


def count_tokens(observation: Mapping[str, Any], spec: EpisodeSpec, tokenizer: SequenceTokenizer) -> int:
    """Tokens of an observation. Raises SpecError: it does not match the spec."""
    stacked = stack_observations([observation], spec)
    derived = {name: np.zeros((1, *leaf.shape)) for name, leaf in tokenizer.layout.derived.items()}
    return len(tokenizer.tokenize(stacked, None, spec, derived))


def read_leaves(value: Any, where: str) -> dict[str, Any]:
    """A nested map -> leaf path -> array, number, text or list. RequestError: no map, or a key that is no name."""
    if not isinstance(value, dict):
        raise RequestError(f"{where}: must be a map from leaves to arrays, got {type(value).__name__}")
    leaves: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            leaves[path] = node
            continue
        for key, inside in node.items():
            if not isinstance(key, str):
                raise RequestError(f"{where}: a leaf's name must be a text, got {type(key).__name__}")
            if not key:
                raise RequestError(f"{where}: a leaf's name is empty")
            name = f"{path}.{key}" if path else key
            if len(name) > _LONGEST_NAME:  # each of many leaves inside would have a copy of it
                raise RequestError(
                    f"{where}: a leaf's name has at most {_LONGEST_NAME} characters, got {name[:40]!r}..."
                )
            waiting.append((name, inside))
    return leaves


def _check_texts(values: Iterable[Any], where: str) -> int:
    """Characters of the longest. Raises RequestError: so long that reading it would hold up everybody."""
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    if longest > LONGEST_TEXT:
        raise RequestError(f"{where}: a text of {longest:,} characters, at most {LONGEST_TEXT:,} are possible")
    return longest


def _array(value: Any, where: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        try:
            value = np.asarray(value) if isinstance(value, (bool, int, float, list)) else None
        except (ValueError, OverflowError):  # ragged, or beyond every dtype
            value = None
    if value is None or value.dtype.kind not in "biuf":
        raise RequestError(f"{where}: must be an array of numbers")
    return value


def _number(value: Any, where: str) -> float | None:
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iuf":
        value = value.item()
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(_float(value)):
        raise RequestError(f"{where}: must be a finite number")
    return float(value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim) else 0


def _only(message: Mapping[str, Any], fields: set[str], where: str = "") -> None:
    unknown = sorted(str(name)[:_LONGEST_NAME] for name in message if name not in fields)
    if unknown:
        where = where or str(message.get("type"))
        raise RequestError(f"{where}: unknown field {unknown[0]!r}; it has {', '.join(sorted(fields - {'type'}))}")
