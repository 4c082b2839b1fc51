-- Which changes of SKUs a gateway has seen, by position in the order of their commits.
-- Every change raises the one row of change_counter and gives its SKU the new figure,
-- directly before its COMMIT: the row's lock makes the order of positions that of the
-- commits, so that whoever sees a position sees all that are lower.

-- +goose Up
CREATE TABLE change_counter (
  id       INT    NOT NULL PRIMARY KEY,
  position BIGINT NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;
INSERT INTO change_counter (id, position) VALUES (1, 0);

ALTER TABLE skus ADD COLUMN position BIGINT NOT NULL DEFAULT 0;
ALTER TABLE skus ADD KEY skus_position (position), DROP KEY skus_changed_at;

-- +goose Down
ALTER TABLE skus ADD KEY skus_changed_at (changed_at), DROP KEY skus_position;
ALTER TABLE skus DROP COLUMN position;
DROP TABLE change_counter;
