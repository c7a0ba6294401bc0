"""Exporters: an image in the store or in a registry, an archive, or plain files at the client.

Invariant: what was exported is durable when the exporter returns; an attribute that cannot be honoured is refused by name.
Start at:  factory.py; assemble.py makes the documents of an image.
Imports:   builder.model, builder.results, transfer, core, formats, kit, oci.  Never: adapters, the solver's insides.
Proved by: tests/unit/builder/exporters/.
"""
