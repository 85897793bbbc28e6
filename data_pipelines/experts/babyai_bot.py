"""BabyAI's own bot, with a budget: on a few levels it would plan for ever."""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, ExpertError, Observation, Policy, import_package

# Subgoals pushed while one action is planned; 10 is already rare. A count, not a clock: the same on every machine.
_SUBGOALS_PER_ACTION = 500


class _BoundedStack(list):
    """The bot's stack of subgoals; refuses to grow for ever while one action is planned."""

    def __init__(self, items: Any, limit: int) -> None:
        super().__init__(items)
        self._limit, self.pushed = limit, 0

    def append(self, item: Any) -> None:
        self.pushed += 1
        if self.pushed > self._limit:
            raise ExpertError(f"the BabyAI bot pushed more than {self._limit} subgoals for one action")
        super().append(item)


def bot_policy(environment: Any, rng: np.random.Generator) -> Policy:
    """`Task.expert` of a `BabyAIEnvironment`.

    The policy raises `ExpertError` where the bot gives up (a wrong box was opened, nothing is left to explore) or
    exceeds its budget.
    """
    del rng
    package = import_package("minigrid.utils.baby_ai_bot", "babyai")
    bot = package.BabyAIBot(environment.simulator)
    bot.stack = _BoundedStack(bot.stack, _SUBGOALS_PER_ACTION)

    def act(observation: Observation) -> Action:
        del observation
        bot.stack.pushed = 0
        try:
            action = bot.replan(environment.executed)
        except (AssertionError, package.DisappearedBoxError) as error:
            raise ExpertError(f"the BabyAI bot gave up on {environment.simulator.mission!r}: {error}") from error
        return {"action": np.asarray(action, np.int32)}

    return act
