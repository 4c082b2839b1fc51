-- The same as in migrations/mysql, where it is explained.

-- +goose Up
ALTER TABLE skus ADD COLUMN counting INTEGER NOT NULL DEFAULT 0;

CREATE TABLE buyer_work (
  sku        TEXT    NOT NULL PRIMARY KEY,
  version    INTEGER NOT NULL,
  cleared    INTEGER NOT NULL,
  counted_at INTEGER NOT NULL,
  counted_id BLOB    NOT NULL,
  steps      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE buyer_work;
ALTER TABLE skus DROP COLUMN counting;
