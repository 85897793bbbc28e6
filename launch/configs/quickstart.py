"""The quickstart's experiment: the starter mixture, a small network, rows of 128 tokens.

Command   gato quickstart          (collects, trains its tokenizer, then trains this, evaluates and reports)
          gato train --config=quickstart:RUN --out OTHER     (this experiment alone, on the data of the quickstart RUN)
Hardware  two CPU cores
Time      20 minutes in all with the installation, training about 14; `gato quickstart` measures a step and takes as
          many as fit, at most these
Result    docs/results/quickstart.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gato.data_pipelines.starter import STARTER
from gato.launch.config import default_config

# Share of the tokens, per suite (its sources share it equally) or per source. A task gets what it needs to be learned:
# language-conditioned picking up takes many more timesteps than pressing a button.
WEIGHTS = {
    "metaworld": 0.09,
    "babyai/PickupLoc": 0.37,
    "babyai/OpenDoor": 0.05,
    "babyai/GoToLocal": 0.05,
    "babyai/GoToRedBall": 0.02,
    "dm_control": 0.06,
    "sokoban": 0.18,
    "atari": 0.09,
    "captions": 0.05,
    "questions": 0.02,
    "text": 0.02,
}
# Factor on the loss: where one action follows 30 to 60 tokens of observation, it would drown among the targets of the
# rest.
LOSS_WEIGHTS = {"babyai": 10.0, "sokoban": 3.0, "atari": 1.5, "captions": 0.4, "questions": 0.4, "text": 0.2}
DOCUMENTS = ("captions", "questions", "text")


def get_config(run: str = "runs/quickstart") -> ConfigDict:
    """`run`: directory of the quickstart, which holds ``data/`` and ``tokenizer.model``."""
    config = default_config()
    config.model.preset = "quickstart"
    config.sources = sources(run, WEIGHTS)
    config.text_model = f"{run}/tokenizer.model"
    config.batch_size = 32
    config.length = 128
    config.steps = 3_500
    config.optimizer.update(
        {"learning_rate": 2e-3, "initial_learning_rate": 0.0, "warmup_steps": 100, "decay_steps": None}
    )
    config.log_every = 20
    config.checkpoint_every = 500
    config.keep = 1
    config.validation_every = 500
    return config


def sources(run: str, weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """The stores of the starter mixture with their weights; windows hold one timestep, which learns fastest."""
    groups = {plan.name: plan.name if plan.name in weights else _suite(plan.name) for plan in STARTER}
    sizes = Counter(groups.values())
    return [_source(run, name, weights[group] / sizes[group]) for name, group in groups.items()]


def _source(run: str, name: str, weight: float) -> dict[str, Any]:
    source: dict[str, Any] = {"path": f"{run}/data/{name}", "weight": weight, "held_out_episodes": 5}
    source["loss_weight"] = LOSS_WEIGHTS.get(_suite(name), 1.0)
    if _suite(name) not in DOCUMENTS:
        # No expert filter: every label is the expert's own. Returns differ by the noise of the execution and by how
        # soon the episode was cut after its success, not by skill.
        source |= {"window_timesteps": 1, "prompt_timesteps": 1, "expert_filter": None}
        # Gato weighs text and actions alike. But a mission is drawn at random and has eight pieces to its action's
        # one: their loss is noise, and even with weight 0.01 some networks never learned to read the missions.
        source["loss_kinds"] = ("action",)
    return source


def _suite(name: str) -> str:
    return name.partition("/")[0]
