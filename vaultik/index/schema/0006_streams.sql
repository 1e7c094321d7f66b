-- Entries that are on no disk: the output of a command, what came from standard input, and the directories made up on
-- the way to them. begun: the run that began to read standard input into it, which can't be done twice.
CREATE TABLE streams (
    entry INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    begun INTEGER
) STRICT;
