"""Judge generated pairs against real scans, by the rules that the shipped weights must keep.

Every pair has all labels; volume fractions lie in the real range +-25 %; median intensities rise
in the schema's order; no mask is nearer to a training mask than scans of different persons are to
each other. Exit status 1 where a rule fails.

    python benchmarks/acceptance.py --data REAL_PAIRSET --synthetic GENERATED --out report.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.data.datasets import PairSet
from common.io.atomic import to_json, write_json
from common.metrics.acceptance import demo_acceptance


def main() -> int:
    """Write the report and print one line per rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--synthetic", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    real, synthetic = PairSet.open(words.data), PairSet.open(words.synthetic)
    scans = [real.read(identity) for identity in real.ids()]
    made = [synthetic.read(identity) for identity in synthetic.ids()]
    training = set(real.ids("training"))
    report = demo_acceptance(
        [(pair.image, pair.label) for pair in made],
        [scan.label for scan in scans],
        [scan.image for scan in scans],
        [real.person(scan.id) for scan in scans],
        real.schema,
        trained_on=[scan.id in training for scan in scans],
    )
    write_json(words.out, report)
    for name, item in report["items"].items():  # type: ignore[attr-defined]
        print(f"{name}: {to_json(item)}")
    print("passed" if report["passed"] else "failed")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
