-- The same as in migrations/mysql, where it is explained.

-- +goose Up
DROP INDEX orders_sku;
DROP INDEX stock_moves_sku;
ALTER TABLE buyer_work DROP COLUMN counted_at;

-- +goose Down
ALTER TABLE buyer_work ADD COLUMN counted_at INTEGER NOT NULL DEFAULT -1;
CREATE INDEX stock_moves_sku ON stock_moves (sku);
CREATE INDEX orders_sku ON orders (sku, reserved_at);
