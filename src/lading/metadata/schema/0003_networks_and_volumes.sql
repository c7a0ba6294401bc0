-- Networks and volumes. A document is the record of core/networks.py or core/volumes.py as JSON; what is looked up has a column.

CREATE TABLE network (
    sequence  INTEGER PRIMARY KEY, -- order of creation
    namespace TEXT NOT NULL,
    id        TEXT NOT NULL,
    name      TEXT NOT NULL,
    document  TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX network_by_id ON network (namespace, id);
CREATE UNIQUE INDEX network_by_name ON network (namespace, name);

CREATE TABLE volume (
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    document  TEXT NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;
