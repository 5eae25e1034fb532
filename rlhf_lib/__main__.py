"""python -m rlhf_lib is the rlhf command."""

import sys

from rlhf_lib.cli import main

sys.exit(main())
