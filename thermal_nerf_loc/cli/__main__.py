# SPDX-License-Identifier: Apache-2.0
"""`python -m thermal_nerf_loc.cli`: the command line without an installed script."""

import sys

from thermal_nerf_loc.cli import main

sys.exit(main())
