"""The models import each other by their file names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
