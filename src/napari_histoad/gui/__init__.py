"""napari: the only room with Qt. It reads inputs, starts jobs in a child process and draws; it holds no science."""
