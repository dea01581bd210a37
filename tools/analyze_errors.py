#!/usr/bin/env python
"""The same as ``python -m mobilevig_det analyze-errors``."""

from mobilevig_det.cli.analyze_errors import main

if __name__ == '__main__':
    main()
