#!/usr/bin/env python
"""The same as ``python -m mobilevig_det plot-run``."""

from mobilevig_det.cli.plot_run import main

if __name__ == '__main__':
    main()
