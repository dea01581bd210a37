#!/usr/bin/env python
"""The same as ``python -m mobilevig_det test``."""

from mobilevig_det.cli.test import main

if __name__ == '__main__':
    main()
