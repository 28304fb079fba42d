"""``python -m napari_histoad.worker``."""

from napari_histoad.worker.server import main

if __name__ == "__main__":
    main()
