-- Sends the requests of a file, one after the other. All the work is done before the run: a request costs one table look-up.
local requests = {}
local count = 0
local at = 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local data = file:read("*a")
  file:close()
  for each in data:gmatch("[^%z]+") do
    count = count + 1
    requests[count] = each
  end
  assert(count > 0, "no requests in the file")
end

function request()
  at = at % count + 1
  return requests[at]
end
