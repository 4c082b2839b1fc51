-- Purchases of one unit by many buyers, without Idempotency-Key. The requests are
-- made beforehand, so that the generator costs the same for every server. With the
-- environment variable SKU they go to that SKU, with SKUS=n to the SKUs bench-0 ..
-- bench-(n-1) at random. BUYERS is how many buyers each thread has, who come again after
-- the last one has bought; CROWD tells those of one generator from those of another.
local requests = {}
local next = 0
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  math.randomseed(id + 1)
  local skus = tonumber(os.getenv("SKUS") or "1")
  local crowd = os.getenv("CROWD") or "buyer"
  for i = 1, tonumber(os.getenv("BUYERS") or "20000") do
    local sku = os.getenv("SKU") or "bench"
    if skus > 1 then sku = "bench-" .. math.random(0, skus - 1) end
    requests[i] = wrk.format("POST", "/v1/skus/" .. sku .. "/orders", {
      ["Content-Type"] = "application/json",
      ["X-User-ID"] = string.format("%s-%d-%06d", crowd, id, i),
    }, '{"quantity":1}')
  end
end

function request()
  next = next % #requests + 1
  return requests[next]
end
