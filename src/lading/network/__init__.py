"""Networks through netavark and aardvark-dns: bridges, addresses, names, published ports.
Invariant: what a sandbox has of the machine is written down before it is made, so that the next daemon can take it away.
Start at:  networks.py (the port), netavark.py (the program), state.py (what outlives the daemon).
Imports:   core, kit.  Never: other adapters, services.
Proved by: testing/networks.py; tests/conformance/test_netavark_networks.py, tests/crash/test_networks.py, tests/e2e/.
"""
