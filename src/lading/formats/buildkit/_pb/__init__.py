"""Message classes generated from the .proto files beside them by scripts/protos.sh; not to be edited."""
