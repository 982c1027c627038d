-- One function for each thing that a test wants a bundle to do.
local menagerie = require "menagerie"

local received -- what the previous generation left
local dir -- the bundle's folder
local kept -- what this one leaves

local probe = {}

function probe.inc(n)
  return n + 1
end

function probe.echo(value)
  return value
end

function probe.fail(message)
  error(message)
end

function probe.crash()
  menagerie.abort()
end

function probe.spin()
  while true do end
end

function probe.sleep_ms(n)
  menagerie.sleep(n)
end

function probe.null()
end

function probe.blob(n)
  return menagerie.bytes(("\171"):rep(n))
end

-- `unpack` ends a list at its length, so nulls inside it are no obstacle.
local unpack = table.unpack or unpack

function probe.call(contract, name, args)
  return menagerie.call(contract, name, unpack(args))
end

-- How the call failed, or nil if it did not.
function probe.caught(contract, name, args)
  local ok, problem = pcall(menagerie.call, contract, name, unpack(args))
  if ok then return nil end
  return problem.kind
end

function probe.state()
  return received
end

function probe.dir()
  return dir
end

function probe.set_state(value)
  kept = value
end

-- A result that cannot leave.
function probe.misfit()
  return print
end

function probe.say(text)
  print(text .. " on stdout")
  io.stderr:write(text, " on stderr\n")
  menagerie.log("warn", text .. " in the log")
end

return {
  ["probe@1"] = probe,

  on_load = function(context)
    received = context.state
    dir = context.dir
  end,

  on_unload = function()
    return kept
  end,
}
