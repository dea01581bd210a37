"""``python -m mobilevig_det`` is the same program as ``mobilevig_det``."""

from mobilevig_det_cli import main

if __name__ == '__main__':
    main()
