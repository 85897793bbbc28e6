"""The arguments of the commands that train: ``gato train``, and ``gato plan``, which finds out where."""

from __future__ import annotations

from pathlib import Path

from gato.launch import argument_types as types
from gato.launch.arguments import Commands, add_command


def add_plan_command(commands: Commands) -> None:
    """Adds ``gato plan``."""
    plan = add_command(
        commands,
        "plan",
        "compile the training step for accelerators that are not here: memory, collectives, estimated time",
        "  gato plan --config=gato_1_2b --topology=v5e:16x16 --mesh=32,8,1\n"
        "  gato plan --config=gato_79m --topology=v5e:4x4 --search --json plan.json\n"
        "  gato plan --config=gato_7b --topology=h200:8x8 --config.model.position=rope",
    )
    plan.add_argument("--config", required=True, metavar="FILE[:ARG]", help="as of gato train; its data are not read")
    plan.add_argument("--topology", required=True, metavar="CHIP:SHAPE", help="v5e:16x16, v4:8x8x4; GPUs: h200:8x8")
    plan.add_argument(
        "--mesh", type=types.mesh, metavar="D,F,T", help="data, fsdp, tensor (default: the config's; search: all)"
    )
    plan.add_argument("--search", action="store_true", help="try meshes, remat, batch sizes; rank those that fit")
    plan.add_argument(
        "--tried", type=types.positive, default=6, metavar="N", help="plans that a search wants (default 6)"
    )
    plan.add_argument(
        "--targets", type=types.share, metavar="SHARE", help="targets a token (default: the paper's mixture)"
    )
    plan.add_argument("--patches", type=types.share, metavar="SHARE", help="image patches a token (default: likewise)")
    plan.add_argument(
        "--tokens", type=types.amount, default=524e9, metavar="N", help="of the whole run (default 524e9)"
    )
    plan.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    plan.add_argument("--config.KEY=VALUE", dest="_", action="store_true", help="change one value of the experiment")


def add_train_command(commands: Commands) -> None:
    """Adds ``gato train``."""
    train = add_command(
        commands,
        "train",
        "train the experiment of a config file; a run directory that holds its checkpoints is continued",
        "  gato train --config=gato_79m:data --out runs/79m\n"
        "  gato train --config=experiment.py --config.optimizer.learning_rate=3e-4 --out runs/a\n"
        "  gato train --config=gato_79m:data --out runs/79m --profile-steps=10:15\n"
        "  srun gato train --config=gato_79m:data --out runs/79m",
    )
    train.add_argument("--config", required=True, metavar="FILE[:ARG]", help="experiment file, or a shipped one's name")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run directory")
    train.add_argument("--config.KEY=VALUE", dest="_", action="store_true", help="change one value of the experiment")
    train.add_argument(
        "--profile-steps", type=types.steps, metavar="FIRST:LAST", help="trace these steps into RUN/profile"
    )
    several = train.add_argument_group(
        "several processes", "found out under srun, mpirun and on TPU VMs; else all three:"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="machine of process 0, and a free port there")
    several.add_argument("--processes", type=types.positive, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=types.natural, metavar="I", help="which one this is, from 0")
