"""``gato plan``: what a training step needs on accelerators that are not here."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from gato.launch.config import load_config, train_config, without_data


def run(arguments: argparse.Namespace) -> None:
    """Prints the plan, or a search's ranking and its best plan; ``--json`` gets the plan, or the list of plans.

    Raises:
      PlanError: among others where nothing that a search compiled fits; its plans are printed and written before that.
    """
    # What is planned for is elsewhere: nothing here may take this machine's accelerator, or wait for one.
    os.environ["JAX_PLATFORMS"] = "cpu"
    with without_data():
        config = load_config(arguments.config, arguments.overrides)
    from gato.planning import report, topology
    from gato.planning.compiled_step import CompilerError
    from gato.planning.plan import make_plan
    from gato.planning.search import require_one_that_fits, search
    from gato.training.config import MeshConfig

    experiment, where = train_config(config), topology.parse(arguments.topology)
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise topology.PlanError(f"--json {arguments.json}: no folder {arguments.json.absolute().parent}")
    name, shares = (
        arguments.config.partition(":")[0],
        {"target_share": arguments.targets, "patch_share": arguments.patches},
    )
    mesh = MeshConfig(*arguments.mesh) if arguments.mesh else None
    if arguments.search:
        devices = topology.describe(where) if where.compiled else None
        plans, estimates = search(
            experiment, where, tried=arguments.tried, mesh=mesh, devices=devices, progress=_say, **shares
        )
        print(report.ranking(plans, estimates))
        print()
    else:
        began = time.perf_counter()
        if where.compiled:
            _say(f"compiling the training step for {where.name}: a minute or more")
        try:
            plans = [make_plan(experiment, where, mesh or experiment.mesh, **shares)]
        except topology.PlanError as error:
            if where.is_tpu or isinstance(error, CompilerError):
                raise
            _say(f"{error}; so it is estimated")
            plans = [make_plan(experiment, where, mesh or experiment.mesh, compiled=False, **shares)]
        _say(f"done in {time.perf_counter() - began:.0f} s")
    print(report.to_text(plans[0], name, arguments.tokens))
    if arguments.json:
        written = [report.to_json(plan, name, arguments.tokens) for plan in plans]
        arguments.json.write_text(json.dumps(written if arguments.search else written[0], indent=1) + "\n")
    if arguments.search:
        require_one_that_fits(plans)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
