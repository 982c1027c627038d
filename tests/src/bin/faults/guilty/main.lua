-- Commits every fault that Lua can.
local menagerie = require "menagerie"
local when = "never"

if when == "init" then menagerie.abort() end

local function deeper(n)
  return 1 + deeper(n + 1)
end

local faults = {
  abort = function() menagerie.abort() end,
  stack = function() return deeper(0) end,
  memory = function()
    local kept = {}
    while true do
      kept[#kept + 1] = ("x"):rep(16 * 1024 * 1024) .. #kept
    end
  end,
  spin = function() while true do end end,
  sleep = function() menagerie.sleep(600000) end,
  stderr = function()
    local line = ("x"):rep(65535) .. "\n"
    for _ = 1, 1600 do io.stderr:write(line) end
  end,
}

return {
  on_unload = function()
    if when == "unload" then menagerie.abort() end
  end,
  ["guilty@1"] = {
    commit = function(fault) return faults[fault]() end,
    inc = function(n) return n + 1 end,
  },
}
