-- The same as in migrations/mysql, where it is explained.

-- +goose Up
CREATE TABLE operator_log (
  id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  at      INTEGER NOT NULL,
  by_name TEXT    NOT NULL,
  action  TEXT    NOT NULL,
  target  TEXT    NOT NULL,
  was     TEXT    NOT NULL,
  became  TEXT    NOT NULL,
  why     TEXT    NOT NULL
) STRICT;
CREATE INDEX operator_log_target ON operator_log (target, id);

-- +goose Down
DROP TABLE operator_log;
