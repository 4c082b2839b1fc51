-- +goose Up
CREATE TABLE breaker_orders (
  name     TEXT    NOT NULL PRIMARY KEY,
  mode     TEXT    NOT NULL,
  until    INTEGER NOT NULL,
  reason   TEXT    NOT NULL,
  given_by TEXT    NOT NULL,
  given_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE breaker_orders;
