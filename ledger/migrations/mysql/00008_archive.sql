-- Orders of closed SKUs move to orders_archive after an age, and may be deleted there after
-- another. skus.archive says how far that has come; a SKU that has begun is never opened
-- again. stock.archived is the part of sold whose orders are no longer in orders.

-- +goose Up
ALTER TABLE skus ADD COLUMN archive VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'none';
ALTER TABLE stock ADD COLUMN archived BIGINT NOT NULL DEFAULT 0,
  ADD CONSTRAINT stock_archived CHECK (archived >= 0 AND archived <= sold);

CREATE TABLE orders_archive (
  order_id     BINARY(16)   NOT NULL PRIMARY KEY,
  sku          VARCHAR(64)  NOT NULL,
  segment      INT          NOT NULL,
  user_id      VARCHAR(128) NOT NULL,
  quantity     INT          NOT NULL,
  amount       BIGINT       NOT NULL,
  currency     CHAR(3)      NOT NULL,
  coupon       VARCHAR(128) NOT NULL,
  status       VARCHAR(16)  NOT NULL,
  request_hash BINARY(8)    NOT NULL,
  reserved_at  BIGINT       NOT NULL,
  pay_by       BIGINT       NOT NULL,
  version      INT          NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- An archived order is one entry, or, where its units came back, none.
CREATE OR REPLACE VIEW inventory_log AS
  SELECT order_id, sku, segment, CAST(-quantity AS SIGNED) AS delta, CAST('reserved' AS CHAR(32)) AS reason, reserved_at AS at FROM orders
  UNION ALL
  SELECT order_id, sku, segment, CAST(-quantity AS SIGNED), CAST('reserved' AS CHAR(32)), reserved_at FROM orders_archive WHERE status = 'paid'
  UNION ALL
  SELECT order_id, sku, segment, delta, reason, at FROM stock_moves;

-- +goose Down
-- Refused, by a row that is there already, where something has been archived: without
-- these columns its units would be sold again.
INSERT INTO change_counter (id, position) SELECT 1, 1 FROM orders_archive LIMIT 1;
INSERT INTO change_counter (id, position) SELECT 1, 1 FROM stock WHERE archived > 0 LIMIT 1;
CREATE OR REPLACE VIEW inventory_log AS
  SELECT order_id, sku, segment, CAST(-quantity AS SIGNED) AS delta, CAST('reserved' AS CHAR(32)) AS reason, reserved_at AS at FROM orders
  UNION ALL
  SELECT order_id, sku, segment, delta, reason, at FROM stock_moves;
DROP TABLE orders_archive;
ALTER TABLE stock DROP CONSTRAINT stock_archived, DROP COLUMN archived;
ALTER TABLE skus DROP COLUMN archive;
