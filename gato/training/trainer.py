"""The training loop: `train(config, run_dir)`.

Step n is dispatched before the metrics of step n - 1 are read, and the loader's threads prepare the next batch
meanwhile, so the device never waits for the host. A run resumes from its newest checkpoint, the data position
included, to the bit.

How a run ends:
  - all steps done: result with ``exit_code`` 0;
  - SIGINT or SIGTERM: a checkpoint at the next step boundary, then a result with ``exit_code`` 128 + the signal's
    number (130 and 143), as shells report it. A second signal ends the run without that checkpoint, as soon as a save
    that was under way is on disk;
  - a loss or gradient that is not finite, unless such steps are skipped (`TrainConfig.on_nonfinite`):
    `DivergedError`, which names sources, rows and episodes; no checkpoint of that state is written;
  - in a run of several processes that lost one: see `Peers`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gato.data_pipelines.mixture_table import mixture_table
from gato.model.attention import describe, platform
from gato.tokenizers.errors import GatoError, counted
from gato.training import cost, nonfinite, run_directory, run_lock
from gato.training.checkpoint import FOLDER, Checkpoints, check_vocabulary, load_meta, saved_steps
from gato.training.config import TrainConfig
from gato.training.flops import batch_flops, peak_flops
from gato.training.loss import LossSums
from gato.training.metrics import FILE as METRICS_FILE
from gato.training.metrics import Writer, add_sums, loss_metrics, open_writers, read_metrics
from gato.training.optimizer import decay_mask
from gato.training.out_of_memory import levers_named
from gato.training.partial_restore import initial_params
from gato.training.peers import Peers
from gato.training.profile import Profile
from gato.training.progress import LiveLine
from gato.training.setup import Setup, build
from gato.training.step import StepMetrics, TrainState

MOST_SKIPPED = 10  # steps in a row; more are no matter of single rows


class DivergedError(GatoError):
    """The loss or the gradient is not finite."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended: updates made, the last losses, and the signal that stopped it, if one did."""

    run_dir: Path
    step: int
    metrics: Mapping[str, float | None]
    interrupted_by: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.interrupted_by is None else 128 + self.interrupted_by


def train(
    config: TrainConfig,
    run_dir: Path | str,
    profile_steps: tuple[int, int] | None = None,
    peers: Peers | None = None,
) -> TrainResult:
    """Trains, or goes on with, the run in `run_dir`.

    Args:
      profile_steps: first and last step of a trace for a profiler, see `Profile`.
      peers: entered already, by who wants it to cover more than this.

    Raises:
      GatoError: every mistake of the user: a directory that holds another configuration, data that changed, a damaged
        checkpoint, a vocabulary that does not fit, another training in the directory, devices with too little memory;
        and `DivergedError`.
    """
    run_dir = Path(run_dir).absolute()
    with contextlib.nullcontext(peers) if peers else Peers() as peers, levers_named(config):
        setup = build(config)
        # Of several processes, the others write only what process 0 begins with them.
        with run_lock.only_one(run_dir, "training") if jax.process_index() == 0 else contextlib.nullcontext():
            return _train(config, run_dir, setup, profile_steps, peers)


def _train(
    config: TrainConfig, run_dir: Path, setup: Setup, profile_steps: tuple[int, int] | None, peers: Peers
) -> TrainResult:
    run_directory.prepare(run_dir, config)
    checkpoints = Checkpoints(run_dir, config.keep)
    try:
        like = setup.abstract_state()
        parameters = run_directory.write_parameters(run_dir, like.params, decay_mask(like.params))
        start, where = checkpoints.latest or 0, "from scratch"
        if start:
            # Another vocabulary has parameters of other shapes: said first, or the checkpoint would seem damaged.
            saved = load_meta(run_dir / FOLDER / str(start))
            check_vocabulary(saved, setup.meta.vocabulary, setup.meta.text_model, run_dir)
            # Into shapes, not into a state: the devices may have no room for two.
            state, data = checkpoints.restore(start, like)
            setup.loader.restore(data)
            where = f"resumed from step {start}"
        else:
            state = setup.initial_state()
            if config.initial:
                params, restored = initial_params(config.initial, state.params, setup.meta)
                state, where = dataclasses.replace(state, params=params), restored.summary()
        with LiveLine(config.steps, start, shown=jax.process_index() == 0) as line, _Stop(line) as stop:
            line.say(f"{run_dir}: {parameters:,} parameters, {counted(len(config.sources), 'source')}, {where}")
            line.say(f"attention: {describe(config.model, platform(setup.mesh))}")
            line.say(cost.state_line(state, setup.mesh))
            for text in mixture_table(setup.loader.sources, setup.loader.rows, config.steps * config.batch_size):
                line.say(text)
            left = range(start + 1, config.steps + 1)
            with contextlib.ExitStack() as closing:
                profile = closing.enter_context(contextlib.closing(Profile(run_dir, profile_steps, left, line.say)))
                writers = [closing.enter_context(contextlib.closing(w)) for w in open_writers(run_dir, config, start)]
                return _Loop(config, run_dir, setup, checkpoints, line, stop, peers, profile, writers, start).run(state)
    finally:
        checkpoints.close()


class _Stop:
    """While entered, the first SIGINT or SIGTERM only sets `signal`; the second one acts as it would without us."""

    def __init__(self, line: LiveLine) -> None:
        self.signal: signal.Signals | None = None
        self._line = line
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Stop:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: the caller handles signals
            pass
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()
        # The interrupted code may have been writing this very line, which Python refuses to do twice at a time.
        with contextlib.suppress(RuntimeError):
            self._line.say(f"{self.signal.name}: stopping after this step, then saving; a second one ends it unsaved")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *_: Any) -> None:
        self._restore()


@dataclasses.dataclass
class _Dispatched:
    """A step that was handed to the device and whose metrics were not read yet."""

    step: int  # updates made after it
    metrics: StepMetrics
    tokens: int
    flops: float


@dataclasses.dataclass
class _Window:
    """What is summed up between two lines of metrics."""

    began: float
    sums: LossSums | None = None
    skipped: int = 0
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0


class _Loop:
    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        setup: Setup,
        checkpoints: Checkpoints,
        line: LiveLine,
        stop: _Stop,
        peers: Peers,
        profile: Profile,
        writers: Sequence[Writer],
        start: int,
    ) -> None:
        self._config, self._run_dir, self._setup, self._checkpoints = config, run_dir, setup, checkpoints
        self._line, self._stop, self._peers, self._profile = line, stop, peers, profile
        self._writers, self._start = writers, start
        self._pending: _Dispatched | None = None
        self._skipped_in_a_row = 0
        self._share = setup.groups / len(setup.hosted)  # the global batch over this process's part of it
        self._window = _Window(time.perf_counter())
        self._speed = _Window(time.perf_counter())  # of the live line: since the first step
        self._shapes: set[tuple[int, ...]] = set()
        self._last: dict[str, float | None] = {}
        peak = peak_flops(jax.devices()[0].device_kind)
        self._peak = peak * jax.device_count() if peak else None

    def run(self, state: TrainState) -> TrainResult:
        config, setup, start = self._config, self._setup, self._start
        # The run may have ended between the step's save and its validation; or another `validation_every` asks for it.
        if start and self._validates(start) and not self._validated(start):
            self._validate(start, state.params)
        if start >= config.steps:
            self._line.say(f"step {start} of {config.steps}: nothing left to do")
            return TrainResult(self._run_dir, start, self._last)
        batches = iter(setup.loader)
        began = time.perf_counter()
        for step in range(start + 1, config.steps + 1):
            self._profile.before(step)
            with jax.profiler.TraceAnnotation("data"):
                batch = self._next(batches)
            compiles = self._is_new_shape(batch)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                placed = setup.put(batch)
                with self._pause() if compiles else contextlib.nullcontext():
                    state, metrics = setup.train_step(state, placed)
            jax.tree.map(lambda x: x.copy_to_host_async(), metrics)
            self._drain(state)
            tokens = round(np.count_nonzero(batch["segment_ids"]) * self._share)
            self._pending = _Dispatched(step, metrics, tokens, batch_flops(config.model, batch) * self._share)
            if step == start + 1:
                self._drain(state)
                self._line.say(f"first step after {time.perf_counter() - began:.1f} s (compilation included)")
                memory = cost.step_line(setup.train_step, state, placed)
                if memory:
                    self._line.say(memory)
                self._start_clock()
            stopped = self._peers.stopping(step, self._stop.signal)
            last = step == config.steps or stopped is not None
            save, validate = last or step % config.checkpoint_every == 0, self._validates(step)
            profiled = self._profile.ends_with(step)
            if save or validate or profiled:
                # Only a state whose own step was finite is saved or judged, so the pipeline drains here.
                self._drain(state)
                if last:
                    self._end_window(step)
                if profiled:
                    with self._pause():
                        self._profile.close()
                if save:
                    self._checkpoints.save(step, state, setup.loader.state(), setup.meta)
                if validate and (stopped is None or step == config.steps):  # a run that is stopped has little time left
                    with self._pause():
                        if save:  # the step shall be safe, should its validation fail or be killed
                            self._checkpoints.wait()
                        self._validate(step, state.params)
            if last:
                break
        self._checkpoints.wait()
        if stopped is not None and step < config.steps:
            self._line.say(f"{stopped.name}: saved step {step} in {self._run_dir}; the same command goes on from there")
            return TrainResult(self._run_dir, step, self._last, stopped)
        return TrainResult(self._run_dir, step, self._last)

    def _next(self, batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        self._window.waited += waited
        self._speed.waited += waited
        return batch

    def _is_new_shape(self, batch: Mapping[str, np.ndarray]) -> bool:
        """Whether the step will be compiled for this batch; says so."""
        shape = (batch["target_index"].shape[1], batch["patches"].shape[1])
        if shape in self._shapes:
            return False
        self._shapes.add(shape)
        rows = self._config.batch_size // self._setup.groups
        self._line.say(f"compiling the step for {shape[0]} targets and {shape[1]} patches in {rows} rows")
        return True

    def _drain(self, newest: TrainState) -> None:
        """Waits for the step whose metrics were not read yet, if there is one; checks and records it."""
        done, self._pending = self._pending, None
        if done is None:
            return
        metrics: StepMetrics = jax.device_get(done.metrics)
        self._window.learning_rate = float(metrics.learning_rate)
        if metrics.finite:
            self._skipped_in_a_row = 0
            self._record(done, metrics)
        else:
            self._skip(done.step, metrics, newest)
        if done.step % self._config.log_every == 0:
            self._end_window(done.step)

    def _record(self, done: _Dispatched, metrics: StepMetrics) -> None:
        window = self._window
        window.sums = add_sums(window.sums, metrics.sums)
        window.gradient_norm = max(window.gradient_norm, float(metrics.gradient_norm))
        window.tokens += done.tokens
        window.flops += done.flops
        speed = self._speed
        speed.tokens += done.tokens
        speed.flops += done.flops
        total = time.perf_counter() - speed.began
        mfu = speed.flops / total / self._peak if self._peak else None
        self._line.update(done.step, float(metrics.sums.mean()), speed.tokens / total, speed.waited / total, mfu)
        if done.step == self._start + 1 + cost.MEASURED_STEPS:
            all_steps = self._config.steps
            self._line.say(cost.time_line(total, cost.MEASURED_STEPS, all_steps, all_steps - done.step))

    def _end_window(self, step: int) -> None:
        """Writes the line of metrics of the steps since the last one, if there are any."""
        window = self._window
        if window.sums is None and not window.skipped:
            return
        seconds = time.perf_counter() - window.began
        losses = {} if window.sums is None else loss_metrics(window.sums, self._setup.source_names)
        self._last = {
            **losses,
            "skipped_steps": window.skipped,
            "gradient_norm": window.gradient_norm,
            "learning_rate": window.learning_rate,
            "tokens_per_second": window.tokens / seconds,
            "mfu": window.flops / seconds / self._peak if self._peak else None,
            "data_wait": window.waited / seconds,
        }
        self._write(step, self._last)
        self._window = _Window(time.perf_counter())

    def _write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        for writer in self._writers:
            writer.write(step, metrics)

    def _skip(self, step: int, metrics: StepMetrics, newest: TrainState) -> None:
        """Reports a step that was not finite and therefore changed nothing; ends the run if it may not be skipped."""
        self._window.skipped += 1
        self._skipped_in_a_row += 1
        cause = nonfinite.describe(self._setup, step, metrics, newest.params)
        many = self._skipped_in_a_row > MOST_SKIPPED
        if self._config.on_nonfinite == "skip" and not many:
            self._line.say(f"step {step} skipped: {cause}")
            return
        self._checkpoints.wait()
        good = saved_steps(self._run_dir)
        resume = f"the checkpoint of step {good[-1]} is good" if good else "no checkpoint was written yet"
        again = f"after {MOST_SKIPPED} skipped steps in a row, " if many else ""
        raise DivergedError(
            f"step {step}: {again}{cause}. Nothing of this state was saved; {resume}. Check the data, or lower "
            'optimizer.learning_rate or optimizer.clip_norm in a new run directory, or set on_nonfinite="skip"'
        )

    def _validates(self, step: int) -> bool:
        every = self._config.validation_every
        return bool(every) and (step % every == 0 or step == self._config.steps)

    def _validated(self, step: int) -> bool:
        """Whether the metrics of this run have a validation of the step; process 0 decides, which writes them."""
        lines = read_metrics(self._run_dir / METRICS_FILE) if jax.process_index() == 0 else []
        found = np.int32(any(line["step"] == step and "validation" in line for line in lines))
        return bool(multihost_utils.broadcast_one_to_all(found) if jax.process_count() > 1 else found)

    def _validate(self, step: int, params: Any) -> None:
        total: LossSums | None = None
        for batch in self._setup.validation_batches:
            total = add_sums(total, jax.device_get(self._setup.validation_step(params, self._setup.put(batch))))
        if total is None:
            return
        metrics = loss_metrics(total, self._setup.source_names, prefix="validation")
        self._line.say(f"step {step}: validation loss {metrics['validation']:.4f}")
        self._last = {**self._last, **metrics}
        self._write(step, metrics)

    def _start_clock(self) -> None:
        """The speed of training is measured from here: what was before is compilation."""
        self._speed = _Window(time.perf_counter())
        self._window = dataclasses.replace(self._window, began=self._speed.began, tokens=0, flops=0.0, waited=0.0)

    @contextlib.contextmanager
    def _pause(self) -> Iterator[None]:
        """The time spent inside (compilation, validation, writing a trace) is no part of the speed of training."""
        began = time.perf_counter()
        yield
        pause = time.perf_counter() - began
        self._window.began += pause
        self._speed.began += pause
