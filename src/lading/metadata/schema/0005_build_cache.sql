-- The build cache: results, the keys under which they are found, and what is known of the snapshots they left.
--
-- Times are nanoseconds since the epoch here, as BuildKit's clients show them.

CREATE TABLE build_record (
    namespace   TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    snapshotter TEXT    NOT NULL,
    layers      TEXT    NOT NULL, -- JSON: names of committed snapshots, bottom first
    mutable     TEXT    NOT NULL, -- key of an active snapshot, or empty
    blobs       TEXT    NOT NULL, -- JSON: digests that are held
    own         TEXT    NOT NULL, -- JSON: snapshots that make up the size
    size        INTEGER NOT NULL,
    created     INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    uses        INTEGER NOT NULL,
    extra       TEXT    NOT NULL DEFAULT '{}',
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE build_key (
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    record    TEXT NOT NULL,
    PRIMARY KEY (namespace, key, record),
    FOREIGN KEY (namespace, record) REFERENCES build_record (namespace, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX build_key_by_record ON build_key (namespace, record);

CREATE TABLE build_link ( -- from a key of an input to a key of what was made of it
    namespace TEXT    NOT NULL,
    source    TEXT    NOT NULL,
    output    TEXT    NOT NULL, -- what was done, and which of its outputs is meant
    input     INTEGER NOT NULL,
    selector  TEXT    NOT NULL,
    target    TEXT    NOT NULL,
    PRIMARY KEY (namespace, source, output, input, selector, target)
) STRICT, WITHOUT ROWID;

CREATE INDEX build_link_by_target ON build_link (namespace, target);

CREATE TABLE build_layer ( -- blobs with the difference that a snapshot makes
    namespace   TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    snapshot    TEXT NOT NULL,
    form        TEXT NOT NULL, -- empty: as it arrived
    descriptor  TEXT NOT NULL,
    diff_id     TEXT NOT NULL,
    PRIMARY KEY (namespace, snapshotter, snapshot, form)
) STRICT, WITHOUT ROWID;

CREATE TABLE build_digest ( -- content digests of parts of a snapshot's tree
    namespace   TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    snapshot    TEXT NOT NULL,
    part        TEXT NOT NULL,
    digest      TEXT NOT NULL,
    PRIMARY KEY (namespace, snapshotter, snapshot, part)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER snapshot_forgotten_by_builds AFTER DELETE ON snapshot BEGIN
    DELETE FROM build_layer
    WHERE namespace = old.namespace AND snapshotter = old.snapshotter AND snapshot = old.key;
    DELETE FROM build_digest
    WHERE namespace = old.namespace AND snapshotter = old.snapshotter AND snapshot = old.key;
END;
