"""The simulator's modules import each other as tests.sim, from the checkout's root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
