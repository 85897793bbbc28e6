"""`gato data import` on Apache Beam: the parts of an import as elements of a pipeline, on any runner.

    python -m gato.data_pipelines.import_beam SOURCE DEST [options of `gato data import`] -- --runner=... (Beam's own)

SOURCE and DEST lie on a file system that all workers see. Beam wants an older protobuf than the rest: install it in an
environment of its own, ``pip install -e ".[formats,beam]"``, on every worker. The store is, to the bit, the one
that `import_source` makes, and a pipeline that failed goes on with the parts that are missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gato.data_pipelines.import_arguments import add_import_arguments, reference_of, report_of
from gato.data_pipelines.import_source import Bad, Imported, Part, import_part, plan_import
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.registry import SourceReference
from gato.tokenizers.errors import GatoError


def import_with_beam(
    reference: SourceReference, dest: Path, bad: Bad = "fail", options: Sequence[str] = ()
) -> Imported:
    """Imports a source into the store ``dest`` with a Beam pipeline. Raises as `import_source`."""
    beam = require("apache_beam", "with Beam", "formats,beam")
    plan = plan_import(reference, dest, bad)
    if isinstance(plan, Imported):
        return plan
    job = plan.reference, plan.source.identity, plan.folder, plan.bad

    def write(part: Part) -> int:
        import_part(*job, part, lambda count: None)
        return part.stop - part.start

    with beam.Pipeline(argv=list(options)) as pipeline:
        parts = pipeline | "parts" >> beam.Create(plan.waiting()) | "spread" >> beam.Reshuffle()
        _ = parts | "import" >> beam.Map(write)
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
    try:
        main()
    except GatoError as error:
        sys.exit(f"error: {error}")
