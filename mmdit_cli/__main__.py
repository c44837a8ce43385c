"""`python -m mmdit_cli` is `mmdit`."""

from mmdit_cli.app import main

if __name__ == "__main__":
    main()
