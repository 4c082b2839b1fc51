-- The same tables as in migrations/mysql, where the columns are explained.

-- +goose Up
CREATE TABLE skus (
  ordinal        INTEGER PRIMARY KEY AUTOINCREMENT,
  sku            TEXT    NOT NULL UNIQUE,
  title          TEXT    NOT NULL,
  unit_price     INTEGER NOT NULL,
  currency       TEXT    NOT NULL,
  per_user_limit INTEGER NOT NULL,
  opens_at       INTEGER NOT NULL,
  closes_at      INTEGER NOT NULL,
  pay_within_ms  INTEGER NOT NULL,
  state          TEXT    NOT NULL,
  heat           TEXT    NOT NULL,
  segments       INTEGER NOT NULL,
  version        INTEGER NOT NULL,
  changed_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX skus_changed_at ON skus (changed_at);

CREATE TABLE stock (
  sku         TEXT    NOT NULL,
  segment     INTEGER NOT NULL,
  total       INTEGER NOT NULL,
  reserved    INTEGER NOT NULL,
  sold        INTEGER NOT NULL,
  sku_version INTEGER NOT NULL,
  raises      INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sku, segment),
  CONSTRAINT stock_bounds CHECK (total >= 0 AND reserved >= 0 AND sold >= 0 AND sold <= total - reserved)
) STRICT, WITHOUT ROWID;

CREATE TABLE orders (
  order_id     BLOB    NOT NULL PRIMARY KEY,
  sku          TEXT    NOT NULL,
  segment      INTEGER NOT NULL,
  user_id      TEXT    NOT NULL,
  quantity     INTEGER NOT NULL,
  amount       INTEGER NOT NULL,
  currency     TEXT    NOT NULL,
  coupon       TEXT    NOT NULL,
  status       TEXT    NOT NULL DEFAULT 'reserved',
  request_hash BLOB    NOT NULL,
  reserved_at  INTEGER NOT NULL,
  pay_by       INTEGER NOT NULL,
  version      INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_sku ON orders (sku, reserved_at);

CREATE TABLE buyers (
  sku        TEXT    NOT NULL,
  user_id    TEXT    NOT NULL,
  units      INTEGER NOT NULL,
  unit_limit INTEGER NOT NULL,
  PRIMARY KEY (sku, user_id),
  CONSTRAINT buyers_bounds CHECK (units >= 0 AND (unit_limit = 0 OR units <= unit_limit))
) STRICT, WITHOUT ROWID;

CREATE TABLE stock_moves (
  order_id BLOB    NOT NULL,
  reason   TEXT    NOT NULL,
  sku      TEXT    NOT NULL,
  segment  INTEGER NOT NULL,
  delta    INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  PRIMARY KEY (order_id, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX stock_moves_sku ON stock_moves (sku);

CREATE VIEW inventory_log AS
  SELECT order_id, sku, segment, -quantity AS delta, 'reserved' AS reason, reserved_at AS at FROM orders
  UNION ALL
  SELECT order_id, sku, segment, delta, reason, at FROM stock_moves;

CREATE TABLE outbox (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  msg_id  BLOB    NOT NULL,
  sku     TEXT    NOT NULL,
  kind    TEXT    NOT NULL,
  payload BLOB    NOT NULL,
  at      INTEGER NOT NULL
) STRICT;

CREATE TABLE due (
  pay_by INTEGER NOT NULL,
  slot   BLOB    NOT NULL,
  ids    BLOB    NOT NULL,
  PRIMARY KEY (pay_by, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE payments (
  event_id TEXT    NOT NULL PRIMARY KEY,
  order_id BLOB    NOT NULL,
  outcome  TEXT    NOT NULL,
  status   TEXT    NOT NULL,
  amount   INTEGER NOT NULL,
  currency TEXT    NOT NULL,
  at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX payments_order ON payments (order_id);

CREATE TABLE job_leases (
  name       TEXT    NOT NULL PRIMARY KEY,
  holder     TEXT    NOT NULL,
  token      INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP VIEW inventory_log;
DROP TABLE job_leases;
DROP TABLE payments;
DROP TABLE due;
DROP TABLE outbox;
DROP TABLE stock_moves;
DROP TABLE buyers;
DROP TABLE orders;
DROP TABLE stock;
DROP TABLE skus;
