-- The same as in migrations/mysql, where it is explained.

-- +goose Up
CREATE TABLE change_counter (
  id       INTEGER NOT NULL PRIMARY KEY,
  position INTEGER NOT NULL
) STRICT;
INSERT INTO change_counter (id, position) VALUES (1, 0);

ALTER TABLE skus ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
CREATE INDEX skus_position ON skus (position);
DROP INDEX skus_changed_at;

-- +goose Down
CREATE INDEX skus_changed_at ON skus (changed_at);
DROP INDEX skus_position;
ALTER TABLE skus DROP COLUMN position;
DROP TABLE change_counter;
