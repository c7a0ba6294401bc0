"""Dockerfiles: text to typed instructions, and the small languages inside them. What BuildKit accepts, with its words on errors.
Invariant: nothing here knows a stage's result; variables get their values from outside (shell.py).
Start at:  parse.py (stages and instructions), lines.py (text to logical lines), instructions.py (the values).
Imports:   errors.  Never: files, sockets, loops.
Proved by: tests/unit/formats/dockerfile/.
"""
