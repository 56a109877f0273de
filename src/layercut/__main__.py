"""``python -m layercut``: the command line where no script is on the path, as for ``accelerate launch -m layercut``."""

from layercut.cli.main import main

if __name__ == "__main__":
    main()
