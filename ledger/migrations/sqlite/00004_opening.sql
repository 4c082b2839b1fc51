-- The same as in migrations/mysql, where it is explained.

-- +goose Up
CREATE INDEX skus_opens_at ON skus (opens_at);

-- +goose Down
DROP INDEX skus_opens_at;
