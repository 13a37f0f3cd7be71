"""Broken inputs, one small function or line each, with what their line must say.

A member of the corpus either breaks one case of an archive, which is then left out, or a whole command, which then
ends with one line; or it looks broken and is good after all.
"""
