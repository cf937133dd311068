-- LuaIPC's side: for each line "OPERATION COUNT" do it that often and print the seconds it took.
local shm = require("ipc.shm")
local sem = require("ipc.sem")

local MIB = 1048576
local h = assert(shm.create(arg[1], MIB))
local s = assert(sem.open(arg[1], 1))
local data = ("x"):rep(64)
h:write((("x"):rep(63) .. "\n"):rep(MIB / 64))

local operations = {
  write = function(count) for _ = 1, count do h:seek("set", 0) h:write(data) end end,
  read = function(count) for _ = 1, count do h:seek("set", 0) h:read(64) end end,
  lines = function(count) for _ = 1, count do h:seek("set", 0) for _ in h:lines() do end end end,
  all = function(count) for _ = 1, count do h:seek("set", 0) h:read(MIB) end end,
  pair = function(count) for _ = 1, count do s:dec() s:inc() end end,
}

print("ready")
io.stdout:flush()
for line in io.lines() do
  local name, count = line:match("(%a+) (%d+)")
  local operation = operations[name]
  local start = os.clock()
  operation(count)
  print(os.clock() - start)
  io.stdout:flush()
end
h:close()
s:close()
