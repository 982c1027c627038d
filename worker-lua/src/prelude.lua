-- What a bundle's Lua state has before its own code runs. The host side hands
-- in the debug library, LuaJIT's FFI (nil in PUC Lua) and its functions, and
-- gets back what it needs itself.
local debug, ffi, native = ...

local concat, error, select, setmetatable = table.concat, error, select, setmetatable
local tostring, traceback, type = tostring, debug.traceback, type

-- Host functions return true and a value, or false and an error; `raising`
-- turns the latter into an error at the place of the call.
local function raising(f)
  return function(...)
    local ok, value = f(...)
    if ok then return value end
    error(value, 2)
  end
end

-- Errors that Rust raises (a stop, bytes that are not valid any more, arguments that do
-- not fit) are objects. To the guest they are as good as their texts: it may join them,
-- match them and index them, as it does with those of Lua itself.

do
  local string, text_of = string, native.text_of
  local problem = debug.getmetatable(native.problem)
  local function text(value)
    return debug.getmetatable(value) == problem and text_of(value) or value
  end
  problem.__tostring = text_of
  function problem.__concat(a, b) return text(a) .. text(b) end
  function problem.__index(_, name)
    local method = string[name]
    return method and function(this, ...) return method(text(this), ...) end
  end
end

-- The module `menagerie`.

local map_metatable = { __name = "menagerie.map" }

local CallError = { __name = "menagerie.CallError" }
CallError.__index = CallError
function CallError:__tostring()
  return self.message
end

local menagerie = {
  null = native.null,
  bytes = raising(native.bytes),
  -- These are there only when the prelude has run.
  int64 = raising(function(value) return native.int64(value) end),
  uint64 = raising(function(value) return native.uint64(value) end),
  log = raising(function(...) return native.log(...) end),
  sleep = raising(native.sleep),
  abort = native.abort,
  CallError = CallError,
}

function menagerie.map(t)
  return setmetatable(t or {}, map_metatable)
end

function menagerie.call(contract, name, ...)
  local ok, value = native.call(contract, name, ...)
  if ok then return value end
  if type(value) == "table" then setmetatable(value, CallError) end
  error(value, 2)
end

package.loaded.menagerie = menagerie

-- Siblings first, then what `package.preload` has; nothing from elsewhere.

local function sibling(name)
  local ok, loader, file = native.find(name)
  if ok then return loader, file end
  error(loader, 0)
end

local searchers = package.searchers or package.loaders
local preload = searchers[1]
for i = #searchers, 1, -1 do searchers[i] = nil end
searchers[1], searchers[2] = sibling, preload
package.path, package.cpath = "", ""

-- The process belongs to all bundles: text goes to the host's log, and nobody
-- ends the worker by mistake.

function print(...)
  local parts = { ... }
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  native.write(1, concat(parts, "\t") .. "\n")
end

local function stream(number)
  local file = { __name = "FILE*" }
  file.__index = file
  function file:write(...)
    for i = 1, select("#", ...) do
      local part = select(i, ...)
      local kind = type(part)
      if kind ~= "string" and kind ~= "number" then
        error("bad argument #" .. i .. " to 'write' (string expected, got " .. kind .. ")", 2)
      end
      native.write(number, tostring(part))
    end
    return self
  end
  function file:flush()
    native.flush(number)
    return self
  end
  function file:setvbuf()
    return true
  end
  function file:close()
    return nil, "cannot close standard file"
  end
  function file:__tostring()
    return "file (the host's log)"
  end
  -- No table, as everywhere else: a table would leave Lua as an empty list.
  if not newproxy then return setmetatable({ file.write }, file) end
  local this = newproxy(true)
  local meta = getmetatable(this)
  for name, value in pairs(file) do meta[name] = value end
  return this
end

io.stdout, io.stderr = stream(1), stream(2)

local open, is_file = io.open, io.type
local output = io.stdout
function io.output(file)
  if type(file) == "string" then
    local opened, problem = open(file, "w")
    if not opened then error(problem, 2) end
    file = opened
  end
  output = file or output
  return output
end
function io.write(...)
  return output:write(...)
end
function io.type(value)
  if value == io.stdout or value == io.stderr then return "file" end
  return is_file(value)
end

function os.exit()
  error("os.exit would end the worker and every bundle in it; raise an error instead", 2)
end

-- Of the debug library only what looks and does not touch: the functions on
-- the stack are the host's too.
local getinfo = debug.getinfo

local function harmless(info)
  if info then info.func = nil end
  return info
end

_G.debug = { traceback = traceback }
package.loaded.debug = _G.debug

function _G.debug.getinfo(target, ...)
  -- One level more, for this function.
  if type(target) == "number" then target = target + 1 end
  return harmless((getinfo(target, ...)))
end

-- For the host.

local host = { map_metatable = map_metatable, xpcall = xpcall }

function host.on_error(err)
  return { error = err, stack = traceback("", 2) }
end

function host.arity(f)
  local info = getinfo(f, "u")
  return info.nparams, info.isvararg
end

-- 64-bit integers that are no doubles, in halves of 32 bits.
if ffi then
  local cast, istype = ffi.cast, ffi.istype
  local int64, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint64_t")
  local half = uint64(2 ^ 32)

  function host.join(unsigned, high, low)
    local value = uint64(high) * half + uint64(low)
    if unsigned then return value end
    return cast(int64, value)
  end

  function host.split(value)
    local unsigned = istype(uint64, value)
    if not unsigned and not istype(int64, value) then return nil, 0, 0 end
    local bits = cast(uint64, value)
    return unsigned, tonumber(bits / half), tonumber(bits % half)
  end
end

return host
