-- The same as in migrations/mysql, where it is explained.

-- +goose Up
CREATE TABLE installation (
  one INTEGER NOT NULL PRIMARY KEY,
  id  TEXT    NOT NULL,
  at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE installation;
