-- +goose Up
-- What operators last ordered the breakers of all gateways to do, one row per breaker.
-- given_at also tells a newer order from an older one, and rises with every order.
CREATE TABLE breaker_orders (
  name     VARCHAR(16)  NOT NULL PRIMARY KEY,
  mode     VARCHAR(16)  NOT NULL,
  until    BIGINT       NOT NULL,
  reason   VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  given_by VARCHAR(128) NOT NULL,
  given_at BIGINT       NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- +goose Down
DROP TABLE breaker_orders;
