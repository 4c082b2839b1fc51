-- As order.lua, with an Idempotency-Key that was never used before in every request.
local heads = {}
local next = 0
local count = 0
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  run = os.time() .. "-" .. id .. "-"
  for i = 1, 20000 do
    heads[i] = "POST /v1/skus/" .. (os.getenv("SKU") or "bench") .. "/orders HTTP/1.1\r\nHost: " .. wrk.host ..
      "\r\nContent-Type: application/json\r\nContent-Length: 14\r\nX-User-ID: " ..
      string.format("buyer-%d-%06d", id, i) .. "\r\nIdempotency-Key: " .. run
  end
end

function request()
  next = next % #heads + 1
  count = count + 1
  return heads[next] .. count .. '\r\n\r\n{"quantity":1}'
end
