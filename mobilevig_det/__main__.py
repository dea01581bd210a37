"""``python -m mobilevig_det`` is the same program as ``mobilevig_det``."""

from .cli import main

if __name__ == '__main__':
    main()
