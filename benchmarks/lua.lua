-- LuaIPC's side: for each line "OPERATION COUNT" do it that often and print the seconds it took.
local shm = require("ipc.shm")

local MIB = 1048576
local h = assert(shm.create(arg[1], MIB))
local data = ("x"):rep(64)
h:write((("x"):rep(63) .. "\n"):rep(MIB / 64))

local operations = {
  write = function() h:seek("set", 0) h:write(data) end,
  read = function() h:seek("set", 0) h:read(64) end,
  lines = function() h:seek("set", 0) for _ in h:lines() do end end,
  all = function() h:seek("set", 0) h:read(MIB) end,
}

for line in io.lines() do
  local name, count = line:match("(%a+) (%d+)")
  local operation = operations[name]
  local start = os.clock()
  for _ = 1, count do operation() end
  print(os.clock() - start)
  io.stdout:flush()
end
h:close()
