-- Which installation this ledger is the truth of: its NATS streams and its Redis are marked
-- with the same id, so that another one's are not taken for its own.

-- +goose Up
CREATE TABLE installation (
  one TINYINT  NOT NULL PRIMARY KEY,
  id  CHAR(26) NOT NULL,
  at  BIGINT   NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- +goose Down
DROP TABLE installation;
