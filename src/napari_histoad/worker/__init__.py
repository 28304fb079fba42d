"""The background process of the window: ``python -m napari_histoad.worker``.

torch is loaded there and not in the window's process: the window stays responsive, memory of the GPU is given back, a crash
costs the run and not the user's outlines, and torch is never imported after Qt (which fails on Windows).
"""
