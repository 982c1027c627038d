-- What the bundle {{name}} does.
local api = {}

function api.greet(name)
  return "Hello, " .. name
end

function api.add(a, b)
  return a + b
end

return { ["{{name}}@1"] = api }
