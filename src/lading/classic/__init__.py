"""Classic: Docker's own image store on disk, read and written so that dockerd and Lading open it in turn.
Invariant: Docker's files are the truth; what the database says of them is brought in line at start.
Start at:  layout.py, then layerdb.py and imagedb.py.
Imports:   core, formats, kit, oci.
Proved by: tests/unit/classic/, tests/e2e/test_classic.py with a real dockerd.
"""
