"""`python -m daas_lab` is `daas-lab`."""

import sys

from daas_lab.cli import main

sys.exit(main())
