# SPDX-License-Identifier: Apache-2.0
"""What every stage of the pipeline uses: version, errors, settings, progress, threads."""

__version__ = '0.1.0'
