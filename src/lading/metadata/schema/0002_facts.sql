-- What lists show of images: facts out of their documents, and sizes.
--
-- A part is a blob, or a committed snapshot on whichever snapshotter, that some target needs, whether it is here or not. Triggers
-- keep the sums: a change of a blob or a snapshot reaches its part, a part reaches the targets that hold it, and the first and the
-- last but one holder of a part learn that it is shared. So every statement that changes rows keeps them true.

CREATE TABLE target ( -- one for each target of an image record whose documents were read
    id        INTEGER PRIMARY KEY,
    namespace TEXT    NOT NULL,
    digest    TEXT    NOT NULL,
    readable  INTEGER NOT NULL,
    created   INTEGER NOT NULL, -- nanoseconds since the epoch, out of the config; 0: unknown
    labels    TEXT    NOT NULL, -- out of the config
    size      INTEGER NOT NULL DEFAULT 0,
    shared    INTEGER NOT NULL DEFAULT 0,
    stale     INTEGER NOT NULL DEFAULT 0  -- 1: other documents are here now than were read
) STRICT;

CREATE UNIQUE INDEX target_by_digest ON target (namespace, digest);

CREATE TABLE target_facts ( -- apart, so that a list does not read past them
    target INTEGER PRIMARY KEY,
    facts  TEXT NOT NULL
) STRICT;

CREATE TABLE part (
    id        INTEGER PRIMARY KEY,
    namespace TEXT    NOT NULL,
    kind      TEXT    NOT NULL CHECK (kind IN ('blob', 'snapshot')),
    digest    TEXT    NOT NULL, -- of a snapshot the chain ID
    size      INTEGER NOT NULL, -- of what is here
    copies    INTEGER NOT NULL, -- 0: it is not here; a snapshot may be on several snapshotters
    holders   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX part_by_digest ON part (namespace, kind, digest);

CREATE TABLE holding (
    part   INTEGER NOT NULL,
    target INTEGER NOT NULL,
    seen   INTEGER, -- a document: 1 if it was here when the facts were read, 0 if not; else NULL
    PRIMARY KEY (part, target)
) STRICT, WITHOUT ROWID;

CREATE INDEX holding_by_target ON holding (target, part);

CREATE INDEX snapshot_by_name ON snapshot (namespace, key); -- on whichever snapshotter

CREATE TRIGGER holding_added AFTER INSERT ON holding BEGIN
    UPDATE target SET shared = shared + part.size FROM part, holding -- the one that had it alone
    WHERE part.id = NEW.part AND part.holders = 1 AND holding.part = NEW.part AND holding.target <> NEW.target
    AND target.id = holding.target;
    UPDATE part SET holders = holders + 1 WHERE id = NEW.part;
    UPDATE target SET size = target.size + part.size, shared = shared + iif(part.holders > 1, part.size, 0) FROM part
    WHERE part.id = NEW.part AND target.id = NEW.target;
END;

CREATE TRIGGER holding_removed AFTER DELETE ON holding BEGIN
    UPDATE target SET size = target.size - part.size, shared = shared - iif(part.holders > 1, part.size, 0) FROM part
    WHERE part.id = OLD.part AND target.id = OLD.target;
    UPDATE part SET holders = holders - 1 WHERE id = OLD.part;
    UPDATE target SET shared = shared - part.size FROM part, holding -- the one that has it alone now
    WHERE part.id = OLD.part AND part.holders = 1 AND holding.part = OLD.part AND target.id = holding.target;
    DELETE FROM part WHERE id = OLD.part AND holders = 0;
END;

CREATE TRIGGER part_resized AFTER UPDATE OF size ON part WHEN NEW.size <> OLD.size BEGIN
    UPDATE target SET
        size = size + NEW.size - OLD.size,
        shared = shared + iif(NEW.holders > 1, NEW.size - OLD.size, 0)
    WHERE id IN (SELECT target FROM holding WHERE part = NEW.id);
END;

CREATE TRIGGER blob_added AFTER INSERT ON blob BEGIN
    UPDATE part SET size = size + NEW.size, copies = copies + 1
    WHERE namespace = NEW.namespace AND kind = 'blob' AND digest = NEW.digest;
    UPDATE target SET stale = 1 FROM part, holding
    WHERE part.namespace = NEW.namespace AND part.kind = 'blob' AND part.digest = NEW.digest
    AND holding.part = part.id AND holding.seen = 0 AND target.id = holding.target;
END;

CREATE TRIGGER blob_removed AFTER DELETE ON blob BEGIN
    UPDATE part SET size = size - OLD.size, copies = copies - 1
    WHERE namespace = OLD.namespace AND kind = 'blob' AND digest = OLD.digest;
    UPDATE target SET stale = 1 FROM part, holding
    WHERE part.namespace = OLD.namespace AND part.kind = 'blob' AND part.digest = OLD.digest
    AND holding.part = part.id AND holding.seen = 1 AND target.id = holding.target;
END;

CREATE TRIGGER snapshot_added AFTER INSERT ON snapshot WHEN NEW.kind = 'committed' BEGIN
    UPDATE part SET size = size + NEW.size, copies = copies + 1
    WHERE namespace = NEW.namespace AND kind = 'snapshot' AND digest = NEW.key;
END;

CREATE TRIGGER snapshot_changed AFTER UPDATE OF key, kind, size ON snapshot BEGIN
    UPDATE part SET size = size - OLD.size, copies = copies - 1
    WHERE OLD.kind = 'committed' AND namespace = OLD.namespace AND kind = 'snapshot' AND digest = OLD.key;
    UPDATE part SET size = size + NEW.size, copies = copies + 1
    WHERE NEW.kind = 'committed' AND namespace = NEW.namespace AND kind = 'snapshot' AND digest = NEW.key;
END;

CREATE TRIGGER snapshot_removed AFTER DELETE ON snapshot WHEN OLD.kind = 'committed' BEGIN
    UPDATE part SET size = size - OLD.size, copies = copies - 1
    WHERE namespace = OLD.namespace AND kind = 'snapshot' AND digest = OLD.key;
END;

CREATE TRIGGER image_removed AFTER DELETE ON image
WHEN NOT EXISTS (SELECT 1 FROM image WHERE namespace = OLD.namespace AND digest = OLD.digest) BEGIN
    DELETE FROM holding WHERE target = (SELECT id FROM target WHERE namespace = OLD.namespace AND digest = OLD.digest);
    DELETE FROM target_facts WHERE target = (SELECT id FROM target WHERE namespace = OLD.namespace AND digest = OLD.digest);
    DELETE FROM target WHERE namespace = OLD.namespace AND digest = OLD.digest;
END;

CREATE TRIGGER image_moved AFTER UPDATE OF digest ON image
WHEN NEW.digest <> OLD.digest AND NOT EXISTS (SELECT 1 FROM image WHERE namespace = OLD.namespace AND digest = OLD.digest) BEGIN
    DELETE FROM holding WHERE target = (SELECT id FROM target WHERE namespace = OLD.namespace AND digest = OLD.digest);
    DELETE FROM target_facts WHERE target = (SELECT id FROM target WHERE namespace = OLD.namespace AND digest = OLD.digest);
    DELETE FROM target WHERE namespace = OLD.namespace AND digest = OLD.digest;
END;

-- Back references are rare, and the collector must find them in every transaction that deletes.
CREATE INDEX blob_with_back_reference ON blob (namespace) WHERE instr(labels, 'containerd.io/gc.bref.') > 0;
CREATE INDEX snapshot_with_back_reference ON snapshot (namespace) WHERE instr(labels, 'containerd.io/gc.bref.') > 0;
CREATE INDEX image_with_back_reference ON image (namespace) WHERE instr(labels, 'containerd.io/gc.bref.') > 0;
CREATE INDEX lease_with_back_reference ON lease (namespace) WHERE instr(labels, 'containerd.io/gc.bref.') > 0;
