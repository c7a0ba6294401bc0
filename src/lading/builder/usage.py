"""Fields of a cache record by which ``docker buildx du`` and ``prune`` filter (BuildKit, client.UsageInfo)."""

from lading.builder.model import UsageRecord
from lading.formats.filters import Fields


def fields_of(record: UsageRecord) -> Fields:
    """The fields; flags are there or not."""
    flags = {
        "inuse": record.in_use,
        "mutable": record.mutable,
        "immutable": not record.mutable,
        "shared": record.shared,
        "private": not record.shared,
    }
    values = {
        "id": record.id,
        "description": record.description,
        "type": record.record_type,
        "parents": ";".join(record.parents),
        "parent": ";".join(record.parents),
    }

    def field(path: tuple[str, ...]) -> str | None:
        name = path[0].lower()
        if name in flags:
            return "" if flags[name] else None
        return values.get(name)

    return field
