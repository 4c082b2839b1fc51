-- Which SKUs' sales open soon, so that their shields are loaded before.

-- +goose Up
ALTER TABLE skus ADD KEY skus_opens_at (opens_at);

-- +goose Down
ALTER TABLE skus DROP KEY skus_opens_at;
