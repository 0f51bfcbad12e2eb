"""`python -m axisplit` is `axisplit`."""

from axisplit.cli import main

if __name__ == "__main__":
    main()
