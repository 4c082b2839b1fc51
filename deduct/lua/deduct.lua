-- Settles earlier batches of one family (a SKU's segment) and takes one new batch.
--
-- KEYS  1 the generation's hash, 2 its tentative batches, 3 the family's pointer
-- ARGV  1 per-user limit of the generation, 0 = none
--       2 token of the new batch, 8 bytes
--       3 the new batch as packed by record.go; '' when there is none
--       4 its number of claims
--       5 '1' when a buyer occurs in it more than once
--       6 milliseconds to set as the family's time to live, '' to leave it
--       7 number of batches to confirm whole
--       8 number of settlements that name claims or a figure of the ledger
--       9 'm', 10 'l', then one field per claim: 'o:'..id, or 'u:'..user under a limit
--       then the tokens to confirm, then the settlements (see settle below)
--
-- Fields of the hash: 'm' the marker, set when the generation is in use; 'l' units
-- left; 'o:'..id -> what an order id stands for: the token of the batch that took its
-- units, LEDGER when it was loaded, RELEASED when its units were given back.
-- Under a limit a buyer has one field, 'u:'..user -> [id token] units, which holds the
-- buyer's latest order too: a new buyer then costs one look-up and one write. Earlier
-- orders of the buyer move to 'o:' fields. An order id is looked for only where its
-- buyer is known, so whoever forgets a buyer's units must set them to 0, not delete.
--
-- Answers, one character per claim: 1 admitted, 2 seen, 3 limit, 4 sold out.
-- Returns {1, units left, answers}, or {0, pointer} when the generation is not in use.

local call, sub, byte = redis.call, string.sub, string.byte
local h, t = KEYS[1], KEYS[2]
local limit, token = tonumber(ARGV[1]), ARGV[2]
local n = tonumber(ARGV[4])

-- buyer splits a buyer's field into units, latest order id, token of that order.
local function buyer(v)
  if #v > 24 then
    return tonumber(sub(v, 25)), sub(v, 1, 16), sub(v, 17, 24)
  end
  return tonumber(v)
end

local first = 10 + n + 1
local confirm, settlements = tonumber(ARGV[7]), tonumber(ARGV[8])
if confirm > 0 then
  call('HDEL', t, unpack(ARGV, first, first + confirm - 1))
  first = first + confirm
end
if settlements > 0 then
  local LEDGER, RELEASED, NONE = 'ledger', 'released', '\0\0\0\0\0\0\0\0'

  -- settle applies the settlement whose arguments begin at ARGV[at]: token (NONE for
  -- orders that ended in the ledger), the ledger's figure of units left ('' = not given),
  -- the number r of claims, 3 bytes for each (1 = restock, 2 = keep, added; quantity,
  -- high byte first), r fields 'o:'..id, and under a limit r fields 'u:'..user. It
  -- returns where the next one begins.
  local function settle(at)
    local tok, floor, r, ops = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
    local ids = at + 4
    local users = ids + r
    local after = limit > 0 and users + r or users
    if tok ~= NONE and call('HDEL', t, tok) == 0 then
      return after
    end
    local left = tonumber(call('HGET', h, 'l'))
    if not left then
      return after
    end
    local before = left
    local fields, value = {}, {}
    local v = r > 0 and call('HMGET', h, unpack(ARGV, ids, after - 1)) or {}
    for i = 1, #v do
      value[ARGV[ids + i - 1]] = v[i]
    end
    local function put(f, x)
      fields[#fields + 1] = f
      value[f] = x
    end
    for i = 1, r do
      local flags, hi, lo = byte(ops, 3 * i - 2, 3 * i)
      local restock, keep, q = flags % 2 == 1, flags >= 2, hi * 256 + lo
      local of, uf = ARGV[ids + i - 1], limit > 0 and ARGV[users + i - 1]
      local u, eid, etok
      if uf and value[uf] then
        u, eid, etok = buyer(value[uf])
      end
      local latest = eid and 'o:' .. eid == of
      local has = latest and etok or value[of]
      if has and has ~= RELEASED and (tok == NONE or has == tok) then
        if restock then
          left = left + q
        end
        local stands = keep and (restock and RELEASED or LEDGER)
        if u and stands ~= LEDGER then
          u = math.max(0, u - q)
        end
        put(of, stands)
        if latest then
          eid, etok = nil, nil
        end
        if u then
          put(uf, (eid and eid .. etok or '') .. string.format('%d', u))
        end
      end
    end
    if floor ~= '' then
      left = math.min(left, tonumber(floor))
    end
    local set, del = {}, {}
    for i = 1, #fields do
      local f = fields[i]
      if value[f] == false then
        del[#del + 1] = f
      else
        set[#set + 1] = f
        set[#set + 1] = value[f]
      end
    end
    if left ~= before then
      set[#set + 1] = 'l'
      set[#set + 1] = string.format('%d', left)
    end
    if #set > 0 then
      call('HSET', h, unpack(set))
    end
    if #del > 0 then
      call('HDEL', h, unpack(del))
    end
    return after
  end

  for _ = 1, settlements do
    first = settle(first)
  end
end
if ARGV[6] ~= '' then
  call('PEXPIRE', h, ARGV[6])
  call('PEXPIRE', KEYS[3], ARGV[6])
end

local r = call('HMGET', h, unpack(ARGV, 9, 10 + n))
-- The generation is in use while the pointer names it. Where an eviction or an operator
-- took the pointer, whoever repairs and loads could not find what others still sell from.
local pointer = call('GET', KEYS[3]) or ''
if not r[1] or pointer ~= sub(h, #KEYS[3] - 2, -3) then
  return {0, pointer}
end
local left = tonumber(r[2])
if n == 0 then
  return {1, left, ''}
end

local blob = ARGV[3]
local mixed = byte(blob, 1) == 1
local quantities = 3 + 16 * n
local answers, w, k, q = {}, {}, 2, 1

if limit == 0 then
  for i = 1, n do
    local has = r[i + 2]
    if has then
      answers[i] = has == token and '1' or '2'
    else
      if mixed then
        local hi, lo = byte(blob, quantities + 2 * i - 1, quantities + 2 * i)
        q = hi * 256 + lo
      end
      if q > left then
        answers[i] = '4'
      else
        answers[i] = '1'
        left = left - q
        w[k + 1] = ARGV[10 + i]
        w[k + 2] = token
        k = k + 2
      end
    end
  end
else
  -- Only a buyer who is known, by another order, can have an order id of this batch
  -- among earlier ones; those few are looked up first.
  local repeats = ARGV[5] == '1' and {}
  local asked, older = {}, repeats and {} or nil
  for i = 1, n do
    local v = r[i + 2]
    if v or repeats then
      local id = sub(blob, 16 * i - 12, 16 * i + 3)
      if not v or #v <= 24 or sub(v, 1, 16) ~= id then
        asked[#asked + 1] = 'o:' .. id
      end
    end
  end
  if #asked > 0 then
    older = older or {}
    local has = call('HMGET', h, unpack(asked))
    for i = 1, #asked do
      older[asked[i]] = has[i]
    end
  end
  local digits = {'1', '2', '3', '4', '5', '6', '7', '8', '9'} -- Lua writes numbers slowly
  for i = 1, n do
    local uf = ARGV[10 + i]
    local v = repeats and repeats[uf] or r[i + 2]
    local u, eid, etok, has = 0, nil, nil, nil
    if v then
      local id = sub(blob, 16 * i - 12, 16 * i + 3)
      u, eid, etok = buyer(v)
      has = eid == id and etok or older and older['o:' .. id]
    end
    if has then
      answers[i] = has == token and '1' or '2'
    else
      if mixed then
        local hi, lo = byte(blob, quantities + 2 * i - 1, quantities + 2 * i)
        q = hi * 256 + lo
      end
      if u + q > limit then
        answers[i] = '3'
      elseif q > left then
        answers[i] = '4'
      else
        answers[i] = '1'
        left = left - q
        if eid then
          w[k + 1] = 'o:' .. eid
          w[k + 2] = etok
          k = k + 2
          if repeats then
            older['o:' .. eid] = etok
          end
        end
        u = u + q
        local x = sub(blob, 16 * i - 12, 16 * i + 3) .. token .. (digits[u] or string.format('%d', u))
        w[k + 1] = uf
        w[k + 2] = x
        k = k + 2
        if repeats then
          repeats[uf] = x
        end
      end
    end
  end
end

local said = table.concat(answers)
if k > 2 then
  -- The batch is written down before it takes anything, so that a script that is cut
  -- short never leaves units taken by nobody.
  local now = call('TIME')
  call('HSET', t, token, now[1] .. sub('00000' .. now[2], -6, -4) .. blob .. said)
  w[1], w[2] = 'l', string.format('%d', left)
  call('HSET', h, unpack(w))
end
return {1, left, said}
