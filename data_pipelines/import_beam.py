"""`gato data import` on Apache Beam: the parts of an import as elements of a pipeline, on any runner.

    python -m gato.data_pipelines.import_beam SOURCE DEST [options of `gato data import`] -- --runner=... (Beam's own)

SOURCE and DEST lie on a file system that all workers see. Beam wants an older protobuf than the rest: install it in an
environment of its own, ``pip install -e ".[formats,beam]"``, on every worker. The store is, to the bit, the one
that `import_source` makes, and a pipeline that failed goes on with the parts that are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gato.data_pipelines.errors import SourceError, StoreError
from gato.data_pipelines.import_arguments import add_import_arguments, reference_of, report_of
from gato.data_pipelines.import_source import Bad, Imported, Part, import_part, plan_import, write_json
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.registry import SourceReference
from gato.tokenizers.errors import GatoError, run_program


def import_with_beam(
    reference: SourceReference, dest: Path, bad: Bad = "fail", options: Sequence[str] = ()
) -> Imported:
    """Imports a source into the store ``dest`` with a Beam pipeline.

    Raises:
      SourceError, StoreError: as `import_source`. What is bad in one part keeps no other from being written, and the
        same call goes on with that part alone; the first one's error is raised. Errors of the runner are Beam's own.
    """
    beam = require("apache_beam", "with Beam", "formats,beam")
    plan = plan_import(reference, dest, bad)
    if isinstance(plan, Imported):
        return plan
    folder = plan.folder
    job = plan.reference, plan.source.identity, folder, plan.bad

    def failure(part: Part) -> Path:
        """Where a worker says why it could not write a part."""
        return folder / f"{part.name}.failed.json"

    def write(part: Part) -> None:
        failure(part).unlink(missing_ok=True)  # of an earlier call
        try:
            import_part(*job, part, lambda count: None)
        except GatoError as error:  # a runner would try again, and then bury the message in its own
            write_json(failure(part), str(error))

    with beam.Pipeline(argv=list(options)) as pipeline:
        parts = pipeline | "parts" >> beam.Create(plan.waiting()) | "spread" >> beam.Reshuffle()
        _ = parts | "import" >> beam.Map(write)
    for part in plan.waiting():
        if failure(part).exists():
            why = json.loads(failure(part).read_text())
            plan.tidy()
            raise SourceError(why)
        raise StoreError(f"{folder / part.name}: no worker wrote it here; {dest.parent} must be a folder that all see")
    return plan.finish()


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0], epilog="Beam's own options follow after --"
    )
    add_import_arguments(parser)
    found = parser.parse_args(given[:own])
    done = import_with_beam(reference_of(found), found.dest, found.bad, given[own + 1 :])
    print(*report_of(done), sep="\n")


if __name__ == "__main__":
    run_program(main)
