"""`python -m abaci` is `abaci`."""

from abaci.cli import main

if __name__ == "__main__":
    main()
