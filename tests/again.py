"""`python -m tests.again`: a second try, alone and in order, for the few tests that have just failed.

Some five hundred of the tests drive a real browser, a real server, processes that are killed: on a machine with two
busy cores one in thousands fails by chance, and holds up what has nothing to do with it. Such a failure is told twice,
with all it said, and is a fault to be found: the last ones were faults of the product (docs/decisions/0022). What fails
at both tries, and more failures than `MOST`, are failures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 3
FAILED = Path(__file__).parents[1] / ".pytest_cache" / "v" / "cache" / "lastfailed"


def main() -> int:
    """Returns 0 where all that failed passes now; else 1."""
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not 0 < len(failed) <= MOST:
        return 1
    print(f"== {len(failed)} failed; a second try, alone", flush=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "", *failed]
    if subprocess.run(command, check=False).returncode:
        return 1
    print("== Passed at the second try only; each is a fault to be found, in the test or in the product:")
    print("\n".join(f"==   {name}" for name in failed), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
