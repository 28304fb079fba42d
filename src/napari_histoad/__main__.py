"""``python -m napari_histoad`` is ``histoad``."""

from napari_histoad.cli import main

if __name__ == "__main__":
    main()
