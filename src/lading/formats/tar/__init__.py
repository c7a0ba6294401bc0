"""Tar: ustar, GNU and PAX archives, read by a push parser and written as header bytes.
Invariant: what Go's archive/tar and libarchive agree on is what is read here, or it is refused.
Start at:  parser.py (`TarParser`), entry.py (what it yields), writer.py.
Imports:   errors.
Proved by: tests/unit/formats/test_tar_*.py, against tarfile, GNU tar and bsdtar.
"""
