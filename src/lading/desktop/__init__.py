"""The page: images, containers and settings in a browser, served to this machine alone by ``lading desktop``.
Invariant: it can do what its table of routes says and nothing else, and only for who knows the token.
Start at:  server.py (who may ask for what), page/app.js (the page).
Imports:   errors.  Never: core, services, adapters: it is a client of the public API.
Proved by: tests/unit/desktop/, tests/e2e/test_desktop.py.
"""
