"""``python -m sslkernels``: the command line."""

from sslkernels.cli import main

if __name__ == "__main__":
    main()
