-- The history of builds: one JSON document per build, and what it is looked up and ordered by.
-- `created` is nanoseconds since the epoch.
CREATE TABLE build (
    namespace TEXT NOT NULL,
    ref TEXT NOT NULL,
    created INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (namespace, ref)
) STRICT, WITHOUT ROWID;
