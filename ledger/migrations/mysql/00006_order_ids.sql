-- Order ids begin with 40 bits of their SKU's hash, so that all reads of a SKU's orders are
-- ranges of the primary key, and an insert touches the pages of the SKUs on sale only. Ids of
-- before this have no such prefix: a ledger that holds orders is refused before it comes
-- here. Buyers are counted in the order of the ids.

-- +goose Up
ALTER TABLE orders DROP KEY orders_sku;
ALTER TABLE stock_moves DROP KEY stock_moves_sku;
ALTER TABLE buyer_work DROP COLUMN counted_at;

-- +goose Down
ALTER TABLE buyer_work ADD COLUMN counted_at BIGINT NOT NULL DEFAULT -1;
ALTER TABLE stock_moves ADD KEY stock_moves_sku (sku);
ALTER TABLE orders ADD KEY orders_sku (sku, reserved_at);
