-- Directories of which not every name could be looked at (Mark.GAP): few, found without reading every row.
CREATE INDEX entries_with_gaps ON entries (id) WHERE marks & 32;
