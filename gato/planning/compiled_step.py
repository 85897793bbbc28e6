"""The training step that ``gato train`` runs, compiled for devices that need not be here."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from gato import sharding
from gato.data_pipelines.collate import batch_shapes
from gato.planning.topology import PlanError
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.config import TrainConfig
from gato.training.cost import Memory, compiled_memory
from gato.training.out_of_memory import LESS_SHARED, SHARED
from gato.training.steps import Steps, make_steps

# The compiler's ways to say that a step needs too much; the second counts temporaries alone.
_NEEDED = re.compile(r"(?:Used |required for HLO temporaries \()([\d.]+)([KMGT])")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class CompilerError(PlanError):
    """The compiler refuses a step, and not for its memory."""


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """Attributes:
    memory: None if the step does not fit: then `needed` is the compiler's count.
    text: of the optimised program; empty if it does not fit.
    seconds: that tracing and compilation took.
    """

    memory: Memory | None
    needed: int
    text: str
    seconds: float


def abstract_arguments(config: TrainConfig, steps: Steps, targets: int, patches: int) -> tuple[Any, Any]:
    """State and batch of a step as shapes with dtypes and shardings. `targets`, `patches`: of one group of rows."""
    state = sharding.abstract(jax.eval_shape(steps.create_state), steps.state_shardings)
    place = sharding.batch_sharding(steps.mesh)
    shapes = batch_shapes(config.batch_size, config.length, steps.groups, patches, targets)
    batch = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=place) for name, (shape, dtype) in shapes.items()}
    return state, batch


def plan_steps(config: TrainConfig, mesh: Mesh) -> Steps:
    """The run's steps; the text model is read for its size, the data are not."""
    text = TextTokenizer.load(config.text_model)
    vocabulary = Vocabulary(text.size, config.extra_tokens)
    config.check_vocabulary(vocabulary)
    return make_steps(config, mesh, vocabulary_size=vocabulary.size, sources=len(config.sources))


def compile_step(config: TrainConfig, steps: Steps, targets: int, patches: int) -> CompiledStep:
    """Compiles the training step of `config`; see `abstract_arguments`. Raises `CompilerError`."""
    began = time.perf_counter()
    state, batch = abstract_arguments(config, steps, targets, patches)
    lowered = steps.train_step.lower(state, batch)  # type: ignore[attr-defined]
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            way_out = f"; {LESS_SHARED}" if SHARED in str(error) else ""
            raise CompilerError(f"the compiler failed: {str(error).splitlines()[0]}{way_out}") from error
        return CompiledStep(None, round(float(needed[1]) * _UNITS[needed[2]]), "", time.perf_counter() - began)
    memory = compiled_memory(compiled)
    assert memory is not None, "compilers of TPUs and GPUs say what they plan"
    return CompiledStep(memory, memory.total, compiled.as_text(), time.perf_counter() - began)
