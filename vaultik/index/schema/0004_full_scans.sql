-- 1 if the run's scan looked at everything (every scan did before), 0 if only at what a watcher had named.
ALTER TABLE runs ADD COLUMN "full" INTEGER NOT NULL DEFAULT 0;
UPDATE runs SET "full" = scanned;

-- What is looked at again whatever a watcher says: few, found without reading every row.
CREATE INDEX entries_again ON entries (id) WHERE again <> 0;
