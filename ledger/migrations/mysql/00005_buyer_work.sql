-- What is to be done to a SKU's buyers in the background, because it is too much for the
-- transaction that changes the limit: its rows are deleted, and then, where the SKU has a
-- limit (skus.counting), its orders are counted into new ones, in the order of
-- reserved_at and order_id. Orders up to (counted_at, counted_id) are in the buyers'
-- rows, later ones are not. version is the SKU's that asked for it; steps only rises.

-- +goose Up
ALTER TABLE skus ADD COLUMN counting TINYINT NOT NULL DEFAULT 0;

CREATE TABLE buyer_work (
  sku        VARCHAR(64) NOT NULL PRIMARY KEY,
  version    BIGINT      NOT NULL,
  cleared    TINYINT     NOT NULL,
  counted_at BIGINT      NOT NULL,
  counted_id BINARY(16)  NOT NULL,
  steps      BIGINT      NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- +goose Down
DROP TABLE buyer_work;
ALTER TABLE skus DROP COLUMN counting;
