"""Pictures: a prepared case with its cubes, what the network restores, and how its loss fell.

Pure functions from arrays to the bytes of a PNG, small enough to be embedded in a page. They use matplotlib's
objects only, never its global state, so any number may be drawn in parallel; the same input gives the same bytes.
"""
