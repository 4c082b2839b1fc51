-- The same as in migrations/mysql, where it is explained.

-- +goose Up
ALTER TABLE skus ADD COLUMN archive TEXT NOT NULL DEFAULT 'none';
ALTER TABLE stock ADD COLUMN archived INTEGER NOT NULL DEFAULT 0 CHECK (archived >= 0 AND archived <= sold);

CREATE TABLE orders_archive (
  order_id     BLOB    NOT NULL PRIMARY KEY,
  sku          TEXT    NOT NULL,
  segment      INTEGER NOT NULL,
  user_id      TEXT    NOT NULL,
  quantity     INTEGER NOT NULL,
  amount       INTEGER NOT NULL,
  currency     TEXT    NOT NULL,
  coupon       TEXT    NOT NULL,
  status       TEXT    NOT NULL,
  request_hash BLOB    NOT NULL,
  reserved_at  INTEGER NOT NULL,
  pay_by       INTEGER NOT NULL,
  version      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

DROP VIEW inventory_log;
CREATE VIEW inventory_log AS
  SELECT order_id, sku, segment, -quantity AS delta, 'reserved' AS reason, reserved_at AS at FROM orders
  UNION ALL
  SELECT order_id, sku, segment, -quantity, 'reserved', reserved_at FROM orders_archive WHERE status = 'paid'
  UNION ALL
  SELECT order_id, sku, segment, delta, reason, at FROM stock_moves;

-- +goose Down
-- Refused, by a row that is there already, where something has been archived: without
-- these columns its units would be sold again.
INSERT INTO change_counter (id, position) SELECT 1, 1 FROM orders_archive LIMIT 1;
INSERT INTO change_counter (id, position) SELECT 1, 1 FROM stock WHERE archived > 0 LIMIT 1;
DROP VIEW inventory_log;
CREATE VIEW inventory_log AS
  SELECT order_id, sku, segment, -quantity AS delta, 'reserved' AS reason, reserved_at AS at FROM orders
  UNION ALL
  SELECT order_id, sku, segment, delta, reason, at FROM stock_moves;
DROP TABLE orders_archive;
ALTER TABLE stock DROP COLUMN archived;
ALTER TABLE skus DROP COLUMN archive;
