-- Names, users and coupons are visible ASCII and compare as bytes. Times are Unix
-- milliseconds on this server's clock; 0 means none. Money is in minor units.

-- +goose Up
CREATE TABLE skus (
  sku            VARCHAR(64)  NOT NULL PRIMARY KEY,
  ordinal        BIGINT       NOT NULL AUTO_INCREMENT,
  title          VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  unit_price     BIGINT       NOT NULL,
  currency       CHAR(3)      NOT NULL,
  per_user_limit BIGINT       NOT NULL,
  opens_at       BIGINT       NOT NULL,
  closes_at      BIGINT       NOT NULL,
  pay_within_ms  BIGINT       NOT NULL,
  state          VARCHAR(16)  NOT NULL,
  heat           VARCHAR(16)  NOT NULL,
  segments       INT          NOT NULL,
  version        BIGINT       NOT NULL,
  changed_at     BIGINT       NOT NULL,
  UNIQUE KEY skus_ordinal (ordinal),
  KEY skus_changed_at (changed_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- One row per SKU and segment: total and reserved are operators' figures (a and b),
-- sold is what live orders hold. sku_version is skus.version, copied here by every
-- change of the rules, so that the last statement of a purchase notices it. raises
-- counts how often units became available again.
CREATE TABLE stock (
  sku         VARCHAR(64) NOT NULL,
  segment     INT         NOT NULL,
  total       BIGINT      NOT NULL,
  reserved    BIGINT      NOT NULL,
  sold        BIGINT      NOT NULL,
  sku_version BIGINT      NOT NULL,
  raises      BIGINT      NOT NULL DEFAULT 0,
  PRIMARY KEY (sku, segment),
  CONSTRAINT stock_bounds CHECK (total >= 0 AND reserved >= 0 AND sold >= 0 AND sold <= total - reserved)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

CREATE TABLE orders (
  order_id     BINARY(16)   NOT NULL PRIMARY KEY,
  sku          VARCHAR(64)  NOT NULL,
  segment      INT          NOT NULL,
  user_id      VARCHAR(128) NOT NULL,
  quantity     INT          NOT NULL,
  amount       BIGINT       NOT NULL,
  currency     CHAR(3)      NOT NULL,
  coupon       VARCHAR(128) NOT NULL,
  status       VARCHAR(16)  NOT NULL DEFAULT 'reserved',
  request_hash BINARY(8)    NOT NULL,
  reserved_at  BIGINT       NOT NULL,
  pay_by       BIGINT       NOT NULL,
  version      INT          NOT NULL DEFAULT 1,
  KEY orders_sku (sku, reserved_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- What a buyer's live orders of a SKU hold. SKUs without a limit need no rows.
CREATE TABLE buyers (
  sku        VARCHAR(64)  NOT NULL,
  user_id    VARCHAR(128) NOT NULL,
  units      BIGINT       NOT NULL,
  unit_limit BIGINT       NOT NULL,
  PRIMARY KEY (sku, user_id),
  CONSTRAINT buyers_bounds CHECK (units >= 0 AND (unit_limit = 0 OR units <= unit_limit))
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- Every movement of units after the reservation: give-backs and retakes of orders,
-- and operators' changes under an id of their own.
CREATE TABLE stock_moves (
  order_id BINARY(16)  NOT NULL,
  reason   VARCHAR(32) NOT NULL,
  sku      VARCHAR(64) NOT NULL,
  segment  INT         NOT NULL,
  delta    BIGINT      NOT NULL,
  at       BIGINT      NOT NULL,
  PRIMARY KEY (order_id, reason),
  KEY stock_moves_sku (sku)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- The log of all movements: an order row is its reservation's entry.
CREATE VIEW inventory_log AS
  SELECT order_id, sku, segment, CAST(-quantity AS SIGNED) AS delta, CAST('reserved' AS CHAR(32)) AS reason, reserved_at AS at FROM orders
  UNION ALL
  SELECT order_id, sku, segment, delta, reason, at FROM stock_moves;

CREATE TABLE outbox (
  id      BIGINT      NOT NULL AUTO_INCREMENT PRIMARY KEY,
  msg_id  BINARY(16)  NOT NULL,
  sku     VARCHAR(64) NOT NULL,
  kind    VARCHAR(32) NOT NULL,
  payload LONGBLOB    NOT NULL,
  at      BIGINT      NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- Which orders may have to expire, and when: one row per group commit and time, with
-- the 16-byte order ids one after the other. slot is random and only makes the key
-- unique. Whoever expires the orders deletes the row in the same transaction.
CREATE TABLE due (
  pay_by BIGINT     NOT NULL,
  slot   BINARY(8)  NOT NULL,
  ids    MEDIUMBLOB NOT NULL,
  PRIMARY KEY (pay_by, slot)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

CREATE TABLE payments (
  event_id VARCHAR(255) NOT NULL PRIMARY KEY,
  order_id BINARY(16)   NOT NULL,
  outcome  VARCHAR(32)  NOT NULL,
  status   VARCHAR(16)  NOT NULL,
  amount   BIGINT       NOT NULL,
  currency CHAR(3)      NOT NULL,
  at       BIGINT       NOT NULL,
  KEY payments_order (order_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

CREATE TABLE job_leases (
  name       VARCHAR(64)  NOT NULL PRIMARY KEY,
  holder     VARCHAR(128) NOT NULL,
  token      BIGINT       NOT NULL,
  expires_at BIGINT       NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- +goose Down
DROP VIEW inventory_log;
DROP TABLE job_leases, payments, due, outbox, stock_moves, buyers, orders, stock, skus;
