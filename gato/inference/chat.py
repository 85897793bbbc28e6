"""A conversation: a text that the user and the agent write in turns, behind a prompt that says who they are.

Nothing but a text to complete, as in the paper's figures: the network goes on after ``Gato:`` and is stopped where it
would speak for the user. Where a row of training is full, the oldest turns fall away; the prompt stays. At most a
quarter of the row is kept for an answer: a larger `limit` makes no further turn fall away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gato.inference.agent import Agent
from gato.inference.generate import prefix
from gato.inference.stream import TextStream

USER, AGENT = "User", "Gato"
PROMPT = f"{USER} talks with {AGENT}, a helpful agent who answers briefly and truthfully."
SHARE = 4  # at most the fourth part of a row is kept for an answer


class Chat:
    """One conversation with an agent.

    Args:
      source, document: what stands before the conversation, e.g. an image, as for `Agent.stream`.
      prompt: who speaks, how, and perhaps some turns as an example.
      options: `limit`, `temperature` and `stop` of `Agent.stream`, for every answer.
    """

    def __init__(
        self, agent: Agent, source: str, document: Mapping[str, Any], prompt: str = PROMPT, **options: Any
    ) -> None:
        self._agent, self._source, self._document, self._prompt = agent, source, document, prompt
        self._options = {"limit": 64, **options}
        self._options["stop"] = (f"\n{USER}:", f"\n{AGENT}:", *options.get("stop", ()))
        self._turns: list[str] = []
        self._answer: TextStream | None = None

    def say(self, words: str) -> TextStream:
        """The answer, as it is written. What was read of it before the next `say` is what the agent remembers.

        Raises SpecError: the prompt and these words alone fill the context. The conversation is as it was then.
        """
        turns = [*self._turns]
        if self._answer is not None:
            turns[-1] += f" {self._answer.text.strip()}"
        turns.append(f"\n\n{USER}: {words}\n\n{AGENT}:")
        while len(turns) > 1 and not self._fits(self._prompt + "".join(turns)):
            del turns[0]
        begin = self._prompt + "".join(turns)
        answer = self._agent.stream(self._source, self._document, begin=begin, **self._options)
        self._turns, self._answer = turns, answer
        return answer

    def _fits(self, text: str) -> bool:
        meta, tokenizer = self._agent.meta, self._agent.tokenizer
        before = prefix(tokenizer, self._document, self._agent.source(self._source)[1].spec)
        assert tokenizer.text is not None
        room = min(self._options["limit"], meta.length // SHARE)
        return len(before) + len(tokenizer.text.encode(text)) + room <= meta.length
