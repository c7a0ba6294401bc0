-- Everything that Lading knows about one data-root.
--
-- Times are microseconds since the epoch, UTC. Labels are a JSON object of strings. Digests are text,
-- `algorithm:hex`. A row that promises a file is written after the file is durable.

CREATE TABLE setting (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE blob (
    namespace TEXT    NOT NULL,
    digest    TEXT    NOT NULL,
    size      INTEGER NOT NULL CHECK (size >= 0),
    created   INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    labels    TEXT    NOT NULL DEFAULT '{}',
    PRIMARY KEY (namespace, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX blob_by_digest ON blob (digest, size); -- whether any namespace still has the file

CREATE TABLE ingest (
    namespace TEXT    NOT NULL,
    ref       TEXT    NOT NULL,
    expected  TEXT,
    total     INTEGER NOT NULL CHECK (total >= 0), -- bytes; 0: unknown
    started   INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    PRIMARY KEY (namespace, ref)
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    namespace TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    digest    TEXT    NOT NULL, -- of the target, for look-ups
    target    TEXT    NOT NULL, -- the descriptor, JSON
    created   INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    labels    TEXT    NOT NULL DEFAULT '{}',
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX image_by_digest ON image (namespace, digest);

CREATE TABLE lease (
    namespace TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    created   INTEGER NOT NULL,
    labels    TEXT    NOT NULL DEFAULT '{}',
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_resource (
    namespace   TEXT NOT NULL,
    lease       TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('content', 'snapshot', 'ingest', 'image')),
    snapshotter TEXT NOT NULL DEFAULT '',
    id          TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, kind, id, snapshotter),
    FOREIGN KEY (namespace, lease) REFERENCES lease (namespace, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX lease_by_resource ON lease_resource (namespace, kind, id, snapshotter);

CREATE TABLE snapshot (
    id          INTEGER PRIMARY KEY, -- names the directory
    namespace   TEXT    NOT NULL,
    snapshotter TEXT    NOT NULL,
    key         TEXT    NOT NULL, -- key, or name once committed
    kind        TEXT    NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    parent      TEXT, -- a name: the parent may be away for a while after an unclean boot
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    inodes      INTEGER NOT NULL,
    boot_id     TEXT    NOT NULL DEFAULT '', -- empty once durable
    labels      TEXT    NOT NULL DEFAULT '{}',
    extra       TEXT    NOT NULL DEFAULT '{}'
) STRICT;

CREATE UNIQUE INDEX snapshot_by_key ON snapshot (namespace, snapshotter, key);
CREATE INDEX snapshot_by_parent ON snapshot (namespace, snapshotter, parent);
CREATE INDEX snapshot_not_durable ON snapshot (namespace, snapshotter, boot_id) WHERE boot_id <> '';

CREATE TABLE snapshot_id ( -- the last directory number that was given out; none is given out twice
    only INTEGER PRIMARY KEY CHECK (only = 1),
    last INTEGER NOT NULL
) STRICT;

INSERT INTO snapshot_id (only, last) VALUES (1, 0);

CREATE TABLE container (
    sequence     INTEGER PRIMARY KEY, -- order of creation
    namespace    TEXT NOT NULL,
    id           TEXT NOT NULL,
    name         TEXT NOT NULL,
    snapshotter  TEXT NOT NULL,
    snapshot_key TEXT NOT NULL,
    image        TEXT NOT NULL,
    target       TEXT NOT NULL,
    document     TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX container_by_id ON container (namespace, id);
CREATE UNIQUE INDEX container_by_name ON container (namespace, name);
