"""The adapter for `lading.core.devices`: a FUSE file system of sparse files, served by two processes of its own (ADR 0109).

Start at ``local.py``, the daemon's side. ``keeper.py`` holds everything and does nothing, ``worker.py`` decodes,
``segments.py`` is one device, ``ahead.py`` says what of it is worth decoding before somebody asks. Each of the two processes
brings the other one back.
"""
