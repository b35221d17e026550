"""``python -m scope_cli`` does what ``scope`` does."""

from .main import main

if __name__ == "__main__":
    main()
