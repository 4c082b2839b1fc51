-- What operators changed: who, what, how it was and how it is, and why. Written in the
-- transaction that makes the change.

-- +goose Up
CREATE TABLE operator_log (
  id         BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at         BIGINT       NOT NULL,
  by_name    VARCHAR(64)  NOT NULL,
  action     VARCHAR(32)  NOT NULL,
  target     VARCHAR(64)  NOT NULL,
  was        TEXT         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  became     TEXT         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  why        VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  KEY operator_log_target (target, id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=ascii COLLATE=ascii_bin;

-- +goose Down
DROP TABLE operator_log;
