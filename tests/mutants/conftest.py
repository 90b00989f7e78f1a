"""The mutants' tests need the checkout's root, for `tests.mutants` and what catches them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
