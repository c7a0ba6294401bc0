"""Seek indexes: how to decode a piece of a compressed layer without what lies before it.

Start at ``index.py``. ``indexing.py`` makes an index while a whole layer is decoded, ``decoding.py`` uses it.
"""
