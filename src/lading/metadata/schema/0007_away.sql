-- What is not where its row says: blobs that were let go of, and layers whose removal has begun.
--
-- The bytes of a blob that is `away` can be made again (`lading.recipe`); sums of sizes count what is here.

ALTER TABLE blob ADD COLUMN away INTEGER NOT NULL DEFAULT 0 CHECK (away IN (0, 1));

CREATE INDEX blob_away ON blob (namespace, digest) WHERE away;

DROP TRIGGER blob_added;
DROP TRIGGER blob_removed;

CREATE TRIGGER blob_added AFTER INSERT ON blob BEGIN
    UPDATE blob SET away = 0 WHERE digest = NEW.digest AND away; -- namespaces share the file
    UPDATE part SET size = size + NEW.size, copies = copies + 1
    WHERE namespace = NEW.namespace AND kind = 'blob' AND digest = NEW.digest;
    UPDATE target SET stale = 1 FROM part, holding
    WHERE part.namespace = NEW.namespace AND part.kind = 'blob' AND part.digest = NEW.digest
    AND holding.part = part.id AND holding.seen = 0 AND target.id = holding.target;
END;

CREATE TRIGGER blob_moved AFTER UPDATE OF away ON blob WHEN NEW.away <> OLD.away BEGIN
    UPDATE part SET size = size + iif(NEW.away, -NEW.size, NEW.size)
    WHERE namespace = NEW.namespace AND kind = 'blob' AND digest = NEW.digest;
END;

CREATE TRIGGER blob_removed AFTER DELETE ON blob BEGIN
    UPDATE part SET size = size - iif(OLD.away, 0, OLD.size), copies = copies - 1
    WHERE namespace = OLD.namespace AND kind = 'blob' AND digest = OLD.digest;
    UPDATE target SET stale = 1 FROM part, holding
    WHERE part.namespace = OLD.namespace AND part.kind = 'blob' AND part.digest = OLD.digest
    AND holding.part = part.id AND holding.seen = 1 AND target.id = holding.target;
END;

-- Layers whose row went and whose tree, which has a name of its own, may still be there: written together with the deletion,
-- so that a crash between the two leaves nothing that nobody knows of.
CREATE TABLE removed_snapshot (
    namespace   TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    key         TEXT NOT NULL,
    tree        TEXT NOT NULL,
    PRIMARY KEY (namespace, snapshotter, key, tree)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER snapshot_with_tree_removed AFTER DELETE ON snapshot
WHEN OLD.kind = 'committed' AND json_extract(OLD.extra, '$.tree') IS NOT NULL BEGIN
    INSERT OR IGNORE INTO removed_snapshot (namespace, snapshotter, key, tree)
    VALUES (OLD.namespace, OLD.snapshotter, OLD.key, json_extract(OLD.extra, '$.tree'));
END;
