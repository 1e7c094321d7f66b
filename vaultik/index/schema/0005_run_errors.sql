-- Why a run ended without a receipt, in a line. NULL: it was killed, or is going on.
ALTER TABLE runs ADD COLUMN error TEXT;
