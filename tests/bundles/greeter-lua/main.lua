local function greet(name)
  return "Hello, " .. name
end

local function greet_all(names)
  local greetings = {}
  for i, name in ipairs(names) do
    greetings[i] = greet(name)
  end
  return greetings
end

return {
  ["greeter@1"] = { greet = greet, greet_all = greet_all },
}
