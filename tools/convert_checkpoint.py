#!/usr/bin/env python
"""The same as ``python -m mobilevig_det convert-checkpoint``."""

from mobilevig_det.cli.convert_checkpoint import main

if __name__ == '__main__':
    main()
