-- What lists show of the manifests of images, so that a list with `manifests` reads rows as well.
--
-- A manifest names its parts by their rows: its target holds these, so that they stay for as long as the manifest does.

CREATE TABLE manifest (
    target   INTEGER NOT NULL,
    number   INTEGER NOT NULL, -- its place among the target's manifests
    listed   TEXT    NOT NULL, -- JSON: descriptor, kind and platform
    document INTEGER NOT NULL, -- whether it was here, so that the parts are all of them
    parts    TEXT    NOT NULL, -- JSON: rows of the blobs that it needs and of the snapshots that its layers become
    PRIMARY KEY (target, number)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER target_removed AFTER DELETE ON target BEGIN
    DELETE FROM manifest WHERE target = OLD.id;
END;

UPDATE target SET stale = 1; -- read again when they are shown next, which fills the table
