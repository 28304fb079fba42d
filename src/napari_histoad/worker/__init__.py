"""The background process of the window: ``python -m napari_histoad.worker``.

torch is loaded in this process and not in the window's: the window stays responsive, GPU memory is freed, a crash ends the job
and not the window with the user's outlines, and torch is never imported after Qt, which fails on Windows.
"""
